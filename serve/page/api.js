// Speaks to this server's API: JSON, and server-sent events. Knows nothing of the page.

export class ApiError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export class Api {
  /** `readKey` returns the key to send, or an empty string. */
  constructor(readKey) {
    this.readKey = readKey;
  }

  /** Call; return the parsed JSON, or the text where `asText`. Throws ApiError. */
  async call(path, { method = "GET", body, signal, asText = false } = {}) {
    const response = await this.#fetch(path, { method, body, signal });
    return asText ? response.text() : response.json();
  }

  /** Post and yield each event's parsed JSON. Throws ApiError, also for an error that comes as an event. */
  async *stream(path, body, signal) {
    const response = await this.#fetch(path, { method: "POST", body, signal });
    let buffer = "";
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    try {
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        buffer += value;
        const events = buffer.split("\n\n");
        buffer = events.pop();
        for (const event of events) {
          const data = event.replace(/^data: ?/, "");
          if (data === "[DONE]") return;
          const parsed = JSON.parse(data);
          if (parsed.error) throw new ApiError(response.status, parsed.error.message, parsed.error.code);
          yield parsed;
        }
      }
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  async #fetch(path, { method, body, signal }) {
    const headers = {};
    const key = this.readKey();
    if (key) headers.Authorization = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(new URL(path, document.baseURI), {
        method,
        headers,
        signal,
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The server cannot be reached. Is it still running?", "unreachable");
    }
    if (response.ok) return response;
    let told = {};
    try {
      told = (await response.json()).error ?? {};
    } catch {
      // Something in between answered; the status is all there is.
    }
    throw new ApiError(response.status, told.message ?? `The server answered ${response.status}.`, told.code);
  }
}

/** The address of a person's resource; ids may hold anything. */
export function personPath(person, rest = "") {
  return `v1/users/${encodeURIComponent(person)}${rest}`;
}

/** List all of a person's feedback, oldest first, up to `most`. */
export async function listFeedback(api, person, most = 500) {
  const found = [];
  let after = "";
  while (found.length < most) {
    const query = new URLSearchParams({ user: person, limit: "100", ...(after && { after }) });
    const page = await api.call(`v1/feedback?${query}`);
    found.push(...page.data);
    if (!page.has_more) break;
    after = page.data.at(-1).id;
  }
  return found;
}
