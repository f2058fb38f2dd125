"""Runs pipelines in this process, on Flink, on Dataflow, or on another Beam runner."""
