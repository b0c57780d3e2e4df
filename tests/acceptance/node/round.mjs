// Rounds with the official `openai` package for Node: node round.mjs BASE_URL MODEL EMBEDDING_MODEL ROUND
// Prints what it saw as JSON.
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const [, , baseURL, model, embeddingModel, round] = process.argv;
const client = new OpenAI({ baseURL, apiKey: "none" });
const TERMINAL = ["completed", "failed", "expired", "cancelled"];

function line(id, text, body = {}) {
  const request = { model, messages: [{ role: "user", content: text }], max_tokens: 16, ...body };
  return JSON.stringify({ custom_id: id, method: "POST", url: "/v1/chat/completions", body: request }) + "\n";
}

function lines(count, text = "question") {
  return Array.from({ length: count }, (_, number) => line(`row-${number}`, `${text} ${number}`)).join("");
}

async function upload(content) {
  return client.files.create({ file: await toFile(Buffer.from(content), "nightly.jsonl"), purpose: "batch" });
}

function create(file, extra = {}) {
  const params = { input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h", ...extra };
  return client.batches.create(params);
}

async function ended(batch) {
  while (!TERMINAL.includes(batch.status)) {
    await new Promise((wake) => setTimeout(wake, 50));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function refusal(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return [error.constructor.name, error.status, error.code, error.param ?? null, typeof error.requestID];
  }
}

async function wholeBatch() {
  const file = await upload(lines(20) + line("too-long", "far too long ".repeat(5000)));
  const ready = await client.files.waitForProcessing(file.id);
  const done = await ended(await create(file, { metadata: { team: "search" } }));
  const output = await (await client.files.content(done.output_file_id)).text();
  const errors = await (await client.files.content(done.error_file_id)).text();
  return {
    file: [ready.status, ready.filename, ready.purpose],
    status: done.status,
    counts: done.request_counts,
    metadata: done.metadata,
    usage: done.usage.total_tokens === done.usage.input_tokens + done.usage.output_tokens,
    output: output.trim().split("\n").map((text) => JSON.parse(text).custom_id),
    errors: errors.trim().split("\n").map((text) => JSON.parse(text).response.body.error.code),
  };
}

async function filesOfEveryKind() {
  fs.writeFileSync("stream.jsonl", lines(3));
  const expiry = { anchor: "created_at", seconds: 3600 };
  const stream = fs.createReadStream("stream.jsonl");
  const streamed = await client.files.create({ file: stream, purpose: "batch", expires_after: expiry });
  const blob = new File([lines(2)], "blob.jsonl");
  const blobbed = await client.files.create({ file: blob, purpose: "user_data" });
  const listed = [];
  for await (const file of client.files.list({ limit: 1, purpose: "user_data" })) listed.push(file.id);
  const deleted = await client.files.delete(blobbed.id);
  return {
    expires: streamed.expires_at - streamed.created_at,
    bytes: streamed.bytes === fs.statSync("stream.jsonl").size,
    listed: listed[0] === blobbed.id,
    deleted: deleted.deleted,
    gone: await refusal(client.files.retrieve(blobbed.id)),
  };
}

async function pages() {
  const file = await upload(lines(1));
  const created = [];
  for (let number = 0; number < 5; number++) created.push((await create(file)).id);
  const listed = [];
  for await (const batch of client.batches.list({ limit: 2 })) {
    listed.push(batch.id);
    if (listed.length === 5) break;
  }
  return JSON.stringify(listed) === JSON.stringify(created.reverse());
}

async function cancelled() {
  const batch = await create(await upload(lines(20000)));
  const asked = await client.batches.cancel(batch.id);
  const done = await ended(asked);
  return { asked: asked.status, status: done.status, again: await refusal(client.batches.cancel(batch.id)) };
}

async function failed() {
  const batch = await ended(await create(await upload(line("twice", "one") + line("twice", "two"))));
  return { status: batch.status, errors: batch.errors.data.map((error) => [error.code, error.line]) };
}

async function uploadInParts() {
  const content = Buffer.from(lines(40));
  const half = Math.floor(content.length / 2);
  const whole = { filename: "parts.jsonl", purpose: "batch", mime_type: "application/jsonl" };
  const begun = await client.uploads.create({ bytes: content.length, ...whole });
  const pieces = [content.subarray(0, half), content.subarray(half)];
  const parts = await Promise.all(
    pieces.map(async (piece) => client.uploads.parts.create(begun.id, { data: await toFile(piece, "part") })),
  );
  const done = await client.uploads.complete(begun.id, { part_ids: parts.map((part) => part.id) });
  const text = await (await client.files.content(done.file.id)).text();
  const given = await client.uploads.create({ bytes: 10, ...whole });
  return {
    begun: begun.status,
    done: done.status,
    same: text === content.toString(),
    batch: (await ended(await create(done.file))).status,
    cancelled: (await client.uploads.cancel(given.id)).status,
  };
}

async function online() {
  const messages = [{ role: "user", content: "hello" }];
  const chat = await client.chat.completions.create({ model, messages, max_tokens: 8 });
  let streamed = "";
  const stream = await client.chat.completions.create({ model, messages, max_tokens: 8, stream: true });
  for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? "";
  // The package asks for base64 unless told otherwise, and turns it back into numbers.
  const embedding = await client.embeddings.create({ model: embeddingModel, input: ["one", "two"] });
  const { data, response, request_id: requestId } = await client.models.list().withResponse();
  return {
    same: streamed === chat.choices[0].message.content,
    numbers: embedding.data.every((item) => item.embedding.every(Number.isFinite)),
    models: data.data.some((found) => found.id === model),
    requestId: requestId === response.headers.get("x-request-id") && requestId.startsWith("req_"),
  };
}

async function errors() {
  const once = { maxRetries: 0 };
  const window = { input_file_id: "file-x", endpoint: "/v1/chat/completions", completion_window: "3h" };
  return {
    unknownBatch: await refusal(client.batches.retrieve("batch_x", once)),
    unknownFile: await refusal(client.files.content("file-x", once)),
    unknownModel: await refusal(client.chat.completions.create({ model: "gpt-4o-mini", messages: [] }, once)),
    badWindow: await refusal(client.batches.create(window, once)),
    emptyFile: await refusal(upload("")),
  };
}

const rounds = { wholeBatch, filesOfEveryKind, pages, cancelled, failed, uploadInParts, online, errors };
console.log(JSON.stringify(await rounds[round]()));
