// Runs rows in ONNX Runtime Web for `bascule.runtimes.child`: node check.mjs FOLDER
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = pathToFileURL(process.argv[2] + "/");
const ort = await import(new URL("ort.wasm.min.mjs", folder));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmBinary = readFileSync(new URL("ort-wasm-simd-threaded.wasm", folder));
const session = await ort.InferenceSession.create(readFileSync(new URL("model.onnx", folder)));
const outputs = JSON.parse(readFileSync(new URL("model.json", folder))).outputs;
const kinds = { float64: Float64Array, float32: Float32Array, int64: BigInt64Array, int32: Int32Array, bool: Uint8Array };

function tensorOf({ type, shape, data, texts }) {
  if (texts) return new ort.Tensor("string", texts, shape);
  const bytes = Uint8Array.from(Buffer.from(data, "base64"));
  return new ort.Tensor(type, new kinds[type](bytes.buffer), shape);
}

function jsonOf({ type, dims, data }) {
  if (type === "string") return { shape: dims, texts: data };
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return { shape: dims, data: bytes.toString("base64") };
}

async function answered(line) {
  const feeds = Object.fromEntries(JSON.parse(line).map((each) => [each.name, tensorOf(each)]));
  const answers = await session.run(feeds);
  const us = [];
  const single = Object.fromEntries(Object.entries(feeds).map(([name, { type, dims, data }]) => {
    const size = data.length / dims[0];
    return [name, new ort.Tensor(type, data.slice(0, size), [1, ...dims.slice(1)])];
  }));
  for (let i = 0; i < 100; i++) {
    const start = performance.now();
    await session.run(single);
    us.push((performance.now() - start) * 1000);
  }
  return { outputs: outputs.map(({ name }) => jsonOf(answers[name])), us };
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await answered(line).catch((problem) => ({ error: problem.message }));
  console.log("answer " + JSON.stringify(answer));
}
