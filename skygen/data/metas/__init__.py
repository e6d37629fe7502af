"""What is known of an image beside its captions, read from files that are not to be trusted."""
