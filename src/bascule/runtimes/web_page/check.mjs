// Runs rows in ONNX Runtime Web for `bascule.runtimes.tools`: node check.mjs FOLDER
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const file = (name) => new URL(name, pathToFileURL(process.argv[2] + "/"));
const ort = await import(file("ort.wasm.min.mjs"));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(file("ort-wasm-simd-threaded.wasm"));
const session = await ort.InferenceSession.create(readFileSync(file("model.onnx")));
const kinds = { float64: Float64Array, float32: Float32Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array };

const feeds = {}, single = {};
for (const { name, type, shape, data, texts } of JSON.parse(readFileSync(0))) {
  const values = texts ?? new kinds[type](Uint8Array.from(Buffer.from(data, "base64")).buffer);
  feeds[name] = new ort.Tensor(type, values, shape);
  single[name] = new ort.Tensor(type, values.slice(0, values.length / shape[0]), [1, ...shape.slice(1)]);
}
const answers = await session.run(feeds);
const us = [];
for (let i = 0; i < 200; i++) {
  const start = performance.now();
  await session.run(single);
  us.push((performance.now() - start) * 1000);
}
const outputs = JSON.parse(readFileSync(file("model.json"))).outputs.map(({ name }) => {
  const { type, data } = answers[name];
  return type === "string" ? data : Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64");
});
console.log("answer " + JSON.stringify({ outputs, us }));
