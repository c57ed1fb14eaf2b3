import { env, pipeline } from "./vendor/transformers.min.js";

const SHOWN = 3;
const text = document.querySelector("#text");
const labels = document.querySelector("#labels");
const status = document.querySelector("#status");

env.allowLocalModels = true;
env.allowRemoteModels = false;
env.localModelPath = "./"; // of the page; transformers.js finds no tokenizer by a whole address
env.backends.onnx.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;

let classify;
let latest = 0;

/** Ask the student, and show its answer unless a newer text has been typed meanwhile. */
async function answer() {
  const turn = ++latest;
  const sentence = text.value.trim();
  if (!sentence) {
    labels.replaceChildren();
    status.textContent = "";
    return;
  }
  const start = performance.now();
  const found = await classify(sentence, { top_k: SHOWN });
  const taken = performance.now() - start;
  if (turn !== latest) return;
  labels.replaceChildren(...found.map(row));
  status.textContent = `${taken.toFixed(1)} ms, tokenizer included`;
  document.body.dataset.answered = sentence;
}

function row({ label, score }) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  const share = document.createElement("span");
  const bar = document.createElement("meter");
  name.textContent = label;
  share.textContent = `${(100 * score).toFixed(1)}%`;
  bar.value = score;
  item.append(name, share, bar);
  return item;
}

function failed(error) {
  status.textContent = "";
  document.querySelector("#error").textContent = `The student cannot answer: ${error.message}`;
}

try {
  const start = performance.now();
  // "q8" reads model/onnx/model_quantized.onnx; WebAssembly runs on every machine, with or without a GPU.
  classify = await pipeline("text-classification", "model", { dtype: "q8", device: "wasm" });
  await classify("ready");
  status.textContent = `Ready after ${((performance.now() - start) / 1000).toFixed(1)} s.`;
  text.disabled = false;
  text.focus();
  text.addEventListener("input", () => answer().catch(failed));
} catch (error) {
  failed(error);
}
