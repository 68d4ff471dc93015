// What the server is asked. Every failure is an Error whose message is one sentence for people;
// docs/serve.md says what goes in and out.

const GONE = "The server does not answer; is `dallebaby serve` still running?";
const CUT = "The connection to the server was cut off; draw again.";

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(GONE);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  const words = typeof told.error === "string" ? told.error : `The server refused (${answer.status}).`;
  throw Object.assign(new Error(words), { status: answer.status });
}

const json = async (path, options) => (await ask(path, options)).json();
const named = (parts) => parts.map(encodeURIComponent).join("/");

export const models = () => json("/api/models");
export const pictures = (after) =>
  json(after ? `/api/pictures?after=${encodeURIComponent(after)}` : "/api/pictures");
export const settingsOf = (file) => json("/api/settings", { method: "POST", body: file });
export const runs = () => json("/api/runs");
export const run = (kind, name) => json(`/api/runs/${named([kind, name])}`);

// The events of one drawing as {event, data}, until its last one. Ends early, with an AbortError,
// when `signal` says so: that is how a drawing is stopped.
export async function* draw(wish, signal) {
  const answer = await ask("/api/drawings", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(wish),
    signal,
  });
  for await (const told of events(answer.body.getReader())) {
    if (told.event === "error") throw new Error(told.data.error);
    yield told;
    if (told.event === "done" || told.event === "stopped") return;
  }
  throw new Error(CUT);
}

async function* events(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Error(CUT);
      });
      if (done) return;
      const blocks = (rest + decoder.decode(value, { stream: true })).split("\n\n");
      rest = blocks.pop();
      yield* blocks.map(parse).filter(Boolean);
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever leaves early frees the place
  }
}

// One block of a stream of server-sent events; null for comments, which keep the line alive.
function parse(block) {
  const found = {};
  for (const line of block.split("\n")) {
    const colon = line.indexOf(": ");
    if (colon > 0) found[line.slice(0, colon)] = line.slice(colon + 2);
  }
  return found.event && found.data ? { event: found.event, data: JSON.parse(found.data) } : null;
}
