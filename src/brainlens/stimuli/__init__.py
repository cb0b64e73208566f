"""What is done to pictures and words before a network or a brain model sees them."""
