"""How good generated images are: near real ones, varied, and what they were asked to show."""
