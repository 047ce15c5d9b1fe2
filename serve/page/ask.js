// Asks for one answer and reads it as it comes. Knows the API's shapes; shows nothing.

/** Build the request's body from a conversation, the options, and for whom it is ("" for nobody). */
export function requestBody(model, messages, person, options) {
  const body = {
    model,
    messages: options.system ? [{ role: "system", content: options.system }, ...messages] : messages,
    stream: true,
    stream_options: { include_usage: true },
  };
  for (const [name, key] of [
    ["temperature", "temperature"],
    ["top_p", "top_p"],
    ["max_tokens", "max_completion_tokens"],
    ["seed", "seed"],
  ]) {
    if (options[name] !== "") body[key] = Number(options[name]);
  }
  if (!person) return body;
  const palate = { explain: true, strength: Number(options.strength), halving: options.halving };
  if (options.best_of !== "") palate.best_of = Number(options.best_of);
  if (options.explore !== "") palate.explore = Number(options.explore);
  if (options.off) palate.off = true;
  return { ...body, user: person, palate };
}

/**
 * Ask, calling `onText` with the whole text so far. The answer is filled in place, so that what came before an error
 * or a stop is kept. Throws ApiError, and AbortError for a stop.
 */
export async function ask(api, body, answer, { signal, onText }) {
  const begun = performance.now();
  try {
    for await (const chunk of api.stream("v1/chat/completions", body, signal)) {
      answer.id = chunk.id ?? answer.id;
      answer.palate = chunk.palate ?? answer.palate;
      answer.usage = chunk.usage ?? answer.usage;
      const choice = chunk.choices?.[0];
      const text = choice?.delta?.content;
      if (text) {
        answer.firstMs ??= performance.now() - begun;
        answer.text += text;
        onText(answer.text);
      }
      answer.finish = choice?.finish_reason ?? answer.finish;
    }
  } finally {
    answer.totalMs = performance.now() - begun;
  }
}

/** An answer before its first token. */
export function newAnswer(person) {
  return { role: "assistant", person, text: "", state: "streaming" };
}
