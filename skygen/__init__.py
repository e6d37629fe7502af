"""skygen: captions and synthetic images for remote sensing, judged by SkyCLIP."""
