"""What people say of generated pictures and of captions, without knowing which model made them."""
