"""The pretrained network: topologies, VGG16 as a pure function, the split, and what it costs."""
