"""What a response is worth: verifiers, formats, lengths."""
