"""How good captions, images and scorers are, each value with its interval and the protocol it follows."""
