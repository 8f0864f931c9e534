# docker build -t image-translation .
# docker run --rm -v "$PWD:/pictures" image-translation cyclegan translate photo.jpg
FROM python:3.12-slim
WORKDIR /build
# PyTorch's own index has builds without CUDA, which are a tenth of the size.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY . .
RUN pip install --no-cache-dir . && rm -rf /build
RUN useradd --create-home painter
USER painter
WORKDIR /pictures
CMD ["cyclegan", "--help"]
