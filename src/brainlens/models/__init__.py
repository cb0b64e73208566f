"""What was fitted: fit, predict or transform, save, load; nothing here sees test data."""
