"""Pages that stand by themselves: one HTML file that asks for nothing over the network, in one style, light and dark."""
