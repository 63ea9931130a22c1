"""Pure losses, weights and advantage estimators."""
