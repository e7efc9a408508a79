"""What a model would run when it is loaded, found without running it, and whether settings allow that."""
