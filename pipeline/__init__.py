"""Images in, masks and histograms out: one Apache Beam pipeline around one network."""
