import { WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const RANGES = ["temperature", "top_p", "repetition_penalty"];
const state = { language: navigator.language.startsWith("zh") ? "zh" : "en", raw: false, history: [], stop: null, model: null };
const words = () => WORDS[state.language];

function element(parent, tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // textContent everywhere: what a model writes is never markup
  parent.append(made);
  return made;
}

function show() {
  const w = words();
  document.documentElement.lang = state.language;
  for (const part of document.querySelectorAll("[data-word]")) part.textContent = w[part.dataset.word];
  $("language").textContent = w.other;
  $("send").textContent = state.stop ? w.stop : w.send;
  $("hint").textContent = state.raw ? w.hintRaw : w.hintChat;
  $("input").placeholder = state.raw ? w.askRaw : w.askChat;
  $("mode-chat").setAttribute("aria-pressed", String(!state.raw));
  $("mode-raw").setAttribute("aria-pressed", String(state.raw));
  $("system").parentElement.hidden = state.raw;
  for (const name of RANGES) document.querySelector(`output[for=${name}]`).textContent = Number($(name).value).toFixed(2);
}

function headers() {
  const key = $("key").value;
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

async function loadModel() {
  const response = await fetch("/v1/models", { headers: headers() });
  if (response.status === 401) {
    $("key-row").hidden = false;
    openSettings(true);
    $("key").focus();
  }
  if (!response.ok) return;
  state.model = (await response.json()).data[0];
  document.title = $("model").textContent = state.model.id;
  if (!state.model.chat_template) {
    state.raw = true;
    $("mode-chat").disabled = true;
  }
  show();
}

function request(text) {
  const body = { model: state.model?.id, stream: true, stream_options: { include_usage: true } };
  for (const name of RANGES) body[name] = Number($(name).value);
  for (const name of ["max_tokens", "seed"]) if ($(name).value !== "") body[name] = Number($(name).value);
  if (state.raw) return ["/v1/completions", { ...body, prompt: text }];
  const system = $("system").value.trim();
  const messages = [...(system ? [{ role: "system", content: system }] : []), ...state.history, { role: "user", content: text }];
  return ["/v1/chat/completions", { ...body, messages }];
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (held + value).split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

async function ask(text) {
  $("empty").hidden = true;
  const { raw, history } = state; // Clear begins another history while this one may still be answered
  if (!raw) element(element($("log"), "div", "turn user"), "div", "", text);
  const turn = element($("log"), "div", raw ? "turn raw busy" : "turn assistant busy");
  turn.dataset.testid = "answer";
  if (raw) element(turn, "span", "given", text);
  const shown = element(turn, "span", "text");
  const facts = element(turn, "span", "facts");
  const [path, body] = request(text);
  const started = performance.now();
  let answer = "", tokens = 0, note = "";
  state.stop = new AbortController();
  show();
  try {
    const response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal: state.stop.signal });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      const piece = choice?.delta?.content ?? choice?.text ?? "";
      if (choice?.finish_reason === "length") note = words().cut;
      if (event.usage) tokens = event.usage.completion_tokens;
      const atEnd = $("log").scrollHeight - $("log").scrollTop - $("log").clientHeight < 80;
      answer += piece;
      shown.textContent = answer;
      if (atEnd) $("log").scrollTop = $("log").scrollHeight;
    }
    const rate = (tokens / ((performance.now() - started) / 1000)).toFixed(1);
    facts.textContent = [words().facts(tokens, rate), note].filter(Boolean).join(" · ");
  } catch (error) {
    if (error.name === "AbortError") facts.textContent = words().stopped;
    else element(turn, "span", "wrong", error instanceof TypeError ? words().unreachable : error.message);
    if (!answer && error.name !== "AbortError") $("input").value ||= text;
  }
  if (!raw && answer) history.push({ role: "user", content: text }, { role: "assistant", content: answer });
  state.stop = null;
  turn.classList.remove("busy");
  $("log").scrollTop = $("log").scrollHeight;
  show();
}

function openSettings(open) {
  $("settings").hidden = !open;
  $("open-settings").setAttribute("aria-expanded", String(open));
}

function grow() {
  $("input").style.height = "auto";
  $("input").style.height = `${$("input").scrollHeight}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.stop) return state.stop.abort();
  const text = $("input").value;
  if (!text.trim()) return;
  $("input").value = "";
  grow();
  ask(text);
});
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", (event) => {
  // While Chinese is being composed, Enter chooses characters.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!state.stop) $("composer").requestSubmit();
});
for (const raw of [false, true]) {
  $(raw ? "mode-raw" : "mode-chat").addEventListener("click", () => { state.raw = raw; show(); });
}
$("clear").addEventListener("click", () => {
  state.stop?.abort();
  state.history = [];
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  $("empty").hidden = false;
  $("input").focus();
});
$("language").addEventListener("click", () => { state.language = state.language === "zh" ? "en" : "zh"; show(); });
$("open-settings").addEventListener("click", () => openSettings($("settings").hidden));
$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); loadModel(); });
for (const name of RANGES) $(name).addEventListener("input", show);

show();
loadModel().catch(() => element($("empty"), "p", "wrong", words().unreachable));
