// Run by node with @grpc/grpc-js and @grpc/proto-loader, the server's address and the proto file as arguments.
const assert = require("node:assert");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [target, proto] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, oneofs: true });
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const unlimited = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };

function request(values, parameters = {}, model = "echo") {
  return {
    model_name: model,
    id: "one",
    parameters,
    inputs: [{ name: "x", datatype: "FP32", shape: [values.length] }],
    raw_input_contents: [Buffer.from(Float32Array.from(values).buffer)],
  };
}

function unary(client, method, message, options = {}, metadata = new grpc.Metadata()) {
  return new Promise((resolve, reject) => {
    let trailing = null;
    const call = client[method](message, metadata, options, (error, answer) =>
      error ? reject(error) : setImmediate(() => resolve({ answer, trailing })));
    call.on("status", (status) => { trailing = status.metadata; });
  });
}

const numbers = (answer) => {
  const raw = answer.raw_output_contents[0];
  return Array.from(new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length)));
};

async function fails(promise, code) {
  await assert.rejects(promise, (error) => { assert.strictEqual(error.code, code, error); return true; });
}

async function talk(client) {
  assert.strictEqual((await unary(client, "ServerLive", {})).answer.live, true);
  assert.strictEqual((await unary(client, "ServerReady", {})).answer.ready, true);
  assert.strictEqual((await unary(client, "ModelReady", { name: "echo" })).answer.ready, true);
  assert.strictEqual((await unary(client, "ServerMetadata", {})).answer.name, "mlserver");
  const metadata = (await unary(client, "ModelMetadata", { name: "echo" })).answer;
  assert.deepStrictEqual(metadata.inputs[0].shape, [-1, 4]);

  const { answer, trailing } = await unary(client, "ModelInfer", request([1, -2.5], { n: { int64_param: 7 } }));
  assert.deepStrictEqual(numbers(answer), [1, -2.5]);
  assert.strictEqual(answer.id, "one");
  assert.strictEqual(answer.parameters.n.int64_param, 7);
  assert.deepStrictEqual(trailing.get("ce-id"), ["one"]);

  const typed = request([]);
  typed.inputs[0] = { name: "x", datatype: "FP32", shape: [2], contents: { fp32_contents: [1, 2] } };
  typed.raw_input_contents = [];
  const contents = (await unary(client, "ModelInfer", typed)).answer.outputs[0].contents;
  assert.deepStrictEqual(contents.fp32_contents, [1, 2]);

  const large = new Array(3_000_000).fill(0.5);
  assert.strictEqual(numbers((await unary(client, "ModelInfer", request(large))).answer).length, large.length);

  const many = await Promise.all(
    Array.from({ length: 500 }, (_, n) => unary(client, "ModelInfer", request([n]))));
  many.forEach(({ answer }, n) => assert.deepStrictEqual(numbers(answer), [n]));

  await fails(unary(client, "ModelInfer", request([1], {}, "nobody")), grpc.status.NOT_FOUND);
  await fails(unary(client, "ModelInfer", request([1], { refuse: { bool_param: true } })),
    grpc.status.INVALID_ARGUMENT);
  await fails(unary(client, "ModelInfer", request([1], { wait_ms: { int64_param: 5000 } }),
    { deadline: Date.now() + 200 }), grpc.status.DEADLINE_EXCEEDED);
  const left = new Promise((resolve, reject) => {
    const call = client.ModelInfer(request([1], { wait_ms: { int64_param: 5000 } }),
      (error, answer) => error ? reject(error) : resolve(answer));
    setTimeout(() => call.cancel(), 100);
  });
  await fails(left, grpc.status.CANCELLED);

  const counted = await new Promise((resolve, reject) => {
    const stream = client.ModelStreamInfer();
    const got = [];
    stream.on("data", (answer) => got.push(answer.outputs[0].contents?.int64_contents?.[0] ??
      answer.raw_output_contents[0].readInt32LE()));
    stream.on("error", reject);
    stream.on("end", () => resolve(got));
    for (let n = 0; n < 50; n += 1) stream.write(request([n], { count: { int64_param: 2 } }, "counts"));
    stream.end();
  });
  assert.deepStrictEqual(counted, Array.from({ length: 100 }, (_, n) => n % 2));
}

async function main() {
  const client = new GRPCInferenceService(target, grpc.credentials.createInsecure(), unlimited);
  await talk(client);
  client.close();
  const gzip = { ...unlimited, "grpc.default_compression_algorithm": grpc.compressionAlgorithms.gzip };
  const compressing = new GRPCInferenceService(target, grpc.credentials.createInsecure(), gzip);
  await talk(compressing);
  compressing.close();
  console.log("all well");
}

main().catch((error) => { console.error(error); process.exit(1); });
