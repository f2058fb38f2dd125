"""What a network learns from: labels, folders of photos and masks, and how to get one."""
