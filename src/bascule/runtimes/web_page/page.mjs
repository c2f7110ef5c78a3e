// A form of the model's inputs, filled with the bundle's example, and its answer.
import * as ort from "./ort.wasm.min.mjs";

const kinds = { FP64: ["float64", Float64Array], FP32: ["float32", Float32Array], INT64: ["int64", BigInt64Array], INT32: ["int32", Int32Array], BOOL: ["bool", Uint8Array], BYTES: ["string", Array] };
const read = async (file) => (await fetch(file)).json();
ort.env.wasm.numThreads = 1;
const [model, example, session] = await Promise.all([read("model.json"), read("example.json"), ort.InferenceSession.create("model.onnx")]);

function valueOf(text, dtype) {
  if (dtype === "INT64") return BigInt(text);
  if (dtype === "BOOL") return text.trim() === "true" ? 1 : 0;
  return text.trim() === "" ? NaN : Number(text);
}

function tensorOf({ dtype, shape, nullable }, text) {
  const [type, make] = kinds[dtype];
  const texts = [text === "" && nullable ? model.missing_text : text];
  const values = () => (shape.length ? text.split(",") : [text]).map((part) => valueOf(part, dtype));
  return new ort.Tensor(type, make.from(dtype === "BYTES" ? texts : values()), [1, ...shape]);
}

function boxOf(field) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  const { data, shape } = example.inputs.find(({ name }) => name === field.name);
  box.value = data.slice(0, data.length / shape[0]).join(", ");
  label.append(field.name, box);
  document.querySelector("#inputs").append(label);
  return box;
}

document.title = document.querySelector("h1").textContent = model.model;
const boxes = model.inputs.map(boxOf);
document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const shown = document.querySelector("output");
  try {
    const feeds = model.inputs.map((field, place) => [field.name, tensorOf(field, boxes[place].value)]);
    const answers = await session.run(Object.fromEntries(feeds));
    shown.textContent = model.outputs.map(({ name }) => `${name}: ${Array.from(answers[name].data).join(", ")}`).join("\n");
  } catch (problem) {
    shown.textContent = problem.message;
  }
});
document.querySelector("button").disabled = false;
await navigator.serviceWorker?.register("offline.js");
await navigator.serviceWorker?.ready;
document.documentElement.dataset.ready = "offline";
