// Paint a photograph with an exported network (uint8 in and out). Nothing leaves the browser.

const LONGEST = 640; // Pixels; larger photographs are shrunk. Time and memory grow with the number of pixels.
const SMALLEST = 36; // Pixels; the shorter side must have at least as many.

const input = document.getElementById("photograph");
const status = document.getElementById("status");
const canvas = document.getElementById("canvas");
const context = canvas.getContext("2d", { willReadFrequently: true });

/** Draw a file on the canvas, on white, and return its pixels as a tensor (1, height, width, 3). */
async function load(file, ort) {
  const bitmap = await createImageBitmap(file); // Upright, whatever the EXIF orientation.
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  if (Math.min(canvas.width, canvas.height) < SMALLEST) {
    throw new Error(`${canvas.width} x ${canvas.height} px; expected sides of at least ${SMALLEST} px`);
  }
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const rgb = new Uint8Array(canvas.width * canvas.height * 3);
  for (let i = 0, j = 0; j < rgb.length; i += 4) {
    rgb[j++] = rgba[i];
    rgb[j++] = rgba[i + 1];
    rgb[j++] = rgba[i + 2];
  }
  return new ort.Tensor("uint8", rgb, [1, canvas.height, canvas.width, 3]);
}

/** Draw a tensor (1, height, width, 3) on the canvas. */
function show(tensor) {
  const [, height, width] = tensor.dims;
  const pixels = new ImageData(width, height);
  for (let i = 0, j = 0; j < tensor.data.length; i += 4) {
    pixels.data[i] = tensor.data[j++];
    pixels.data[i + 1] = tensor.data[j++];
    pixels.data[i + 2] = tensor.data[j++];
    pixels.data[i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

async function main() {
  const ort = await import("onnxruntime-web");
  ort.env.wasm.proxy = true; // Run in a worker, so that the page stays responsive.
  const session = await ort.InferenceSession.create("network.onnx");
  input.disabled = false;
  status.textContent = "Choose a photograph.";
  input.addEventListener("change", async () => {
    if (!input.files.length) return;
    input.disabled = true;
    status.textContent = "Painting ...";
    try {
      const picture = await load(input.files[0], ort);
      const start = performance.now();
      show((await session.run({ picture })).painting);
      const seconds = ((performance.now() - start) / 1000).toFixed(1);
      status.textContent = `Painted ${canvas.width} x ${canvas.height} px in ${seconds} s.`;
    } catch (error) {
      status.textContent = `Not painted: ${error.message}`;
    }
    input.disabled = false;
  });
}

main().catch((error) => {
  status.textContent = `Cannot start: ${error.message}. docs/deployment.md says which files must lie beside this page.`;
});
