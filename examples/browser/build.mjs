// Puts the page, transformers.js and ONNX Runtime's WebAssembly into a folder, site/ by default, which any server of
// static files can serve.
import { copyFileSync, mkdirSync } from "node:fs";
import { pathToFileURL } from "node:url";

const site = pathToFileURL(`${process.argv[2] ?? "site"}/`);
const installed = new URL("node_modules/", import.meta.url);
const files = {
  "index.html": new URL("index.html", import.meta.url),
  "app.js": new URL("app.js", import.meta.url),
  "vendor/transformers.min.js": new URL("@huggingface/transformers/dist/transformers.min.js", installed),
  "vendor/ort-wasm-simd-threaded.asyncify.mjs": new URL(
    "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.mjs",
    installed,
  ),
  "vendor/ort-wasm-simd-threaded.asyncify.wasm": new URL(
    "onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm",
    installed,
  ),
};

mkdirSync(new URL("vendor/", site), { recursive: true });
for (const [name, source] of Object.entries(files)) {
  copyFileSync(source, new URL(name, site));
  console.log(name);
}
