"""Speed and memory against peers and physical limits, side by side in one run, as ratios."""
