"""The network: ImageNet backbones, the strides of their features, and the FCN on top."""
