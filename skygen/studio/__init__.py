"""What is tried on one picture or one prompt at a time: the calls behind the demo's page, for a script too."""
