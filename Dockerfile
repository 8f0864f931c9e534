# docker build -t image-translation .
# docker run --rm -p 7860:7860 image-translation    # the web page and the HTTP API
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/pictures" image-translation cyclegan translate photo.jpg
FROM python:3.12-slim
WORKDIR /build
# The versions that are tested, by their hashes. PyTorch comes with CUDA: 6 GB.
COPY requirements.lock .
RUN pip install --no-cache-dir --require-hashes --requirement requirements.lock
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation . && mkdir /server && mv app.py api.py /server && rm -rf /build
# Libraries write caches there, also for a user who is not known in the image.
ENV HOME=/tmp
RUN useradd --uid 1000 --home-dir /tmp painter
USER painter
WORKDIR /pictures
EXPOSE 7860
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/health')"]
CMD ["python", "/server/app.py", "--host", "0.0.0.0"]
