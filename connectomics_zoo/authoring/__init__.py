"""What writers of specs need: new models, and what is recorded of them."""
