# Worker image for Dataflow, Flink and Spark: Beam's SDK harness with TensorFlow and this project.
#   docker build -t REGION-docker.pkg.dev/PROJECT/REPOSITORY/fcn-beam .
# Its Python and Beam versions must be those of the machine that submits the job. For workers with
# NVIDIA GPUs: --build-arg EXTRA=and-cuda, which adds TensorFlow's CUDA libraries.
ARG PYTHON=3.11
FROM apache/beam_python${PYTHON}_sdk:2.77.0

WORKDIR /fcn-beam
COPY requirements-cloud.txt .
ARG EXTRA
RUN pip install --no-cache-dir -r requirements-cloud.txt ${EXTRA:+"tensorflow[$EXTRA]"}
# Where machines of Google's have their driver; there is none on others.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64
COPY pyproject.toml setup.py README.md LICENSE ./
COPY pipeline pipeline
COPY model_build model_build
RUN pip install --no-cache-dir --no-deps .
# The base image's entry point, /opt/apache/beam/boot, starts the harness.
