# docker build -t image-translation .
# docker run --rm -v "$PWD:/pictures" image-translation cyclegan translate photo.jpg
FROM python:3.12-slim
WORKDIR /build
# The versions that are tested, by their hashes. PyTorch comes with CUDA: 6 GB.
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && rm -rf /build
RUN useradd --create-home painter
USER painter
WORKDIR /pictures
CMD ["cyclegan", "--help"]
