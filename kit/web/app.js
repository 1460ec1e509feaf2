import { Wllama } from "./wllama/index.min.js";

const at = (id) => document.getElementById(id);
const say = (text) => { at("state").textContent = text; };
const quiet = () => {};

async function load() {
  const shipped = await (await fetch("ship.json")).json();
  at("name").textContent = document.title = shipped.name;
  const begin = performance.now();
  const file = await (await fetch(shipped.file)).blob();
  const wllama = new Wllama({ default: "./wllama/wllama.wasm" },
    { logger: { debug: quiet, log: quiet, warn: quiet, error: console.error } });
  await wllama.loadModel([file], { n_ctx: 1024, n_threads: 1, n_gpu_layers: 0 });
  say(`Ready: ${shipped.file}, ${(file.size / 1e6).toFixed(1)} MB, loaded in ${Math.round(performance.now() - begin)} ms.`);
  return { shipped, wllama };
}

async function answer({ shipped, wllama }, text) {
  const system = shipped.system ? [{ role: "system", content: shipped.system }] : [];
  const begin = performance.now();
  const result = await wllama.createChatCompletion({
    messages: [...system, { role: "user", content: text }], max_tokens: shipped.max_new_tokens, temperature: 0,
  });
  at("reply").textContent = result.choices[0].message.content;
  say(`Answered in ${Math.round(performance.now() - begin)} ms.`);
  return at("reply").textContent;
}

try {
  const loaded = await load();
  window.answer = (text) => answer(loaded, text);
  document.querySelector("form").onsubmit = (event) => { event.preventDefault(); window.answer(at("message").value); };
  for (const text of loaded.shipped.examples) {
    const button = document.createElement("button");
    button.textContent = text;
    button.onclick = () => { at("message").value = text; window.answer(text); };
    at("examples").append(button);
  }
  at("message").disabled = false;
  at("message").focus();
} catch (error) {
  say(`The model could not be loaded: ${error.message ?? error}. A page opened as file:// cannot load it: run \`python -m http.server\` in this folder.`);
  throw error;
}
