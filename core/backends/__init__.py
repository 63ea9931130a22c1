"""Generators and learners. The only place that knows devices, engines and heavy libraries."""
