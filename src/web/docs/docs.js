// The documentation page: reads /openapi.json, shows its operations, and sends requests that are
// filled in by hand. Everything from the document goes into the page as text.

const BODY_METHODS = new Set(["post", "put", "patch"]);
const EVENTS_SHOWN_MAX = 20000;

let key = sessionStorage.getItem("docs-key") ?? "";

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function headers(extra = {}) {
  const all = { "X-SD35-Request": "1", ...extra };
  if (key) all.Authorization = `Bearer ${key}`;
  return all;
}

function tell(text, isBad = false) {
  const message = document.getElementById("message");
  message.textContent = text;
  message.classList.toggle("failed", isBad);
}

// --- What a body may look like ---

function example(schema) {
  if (!schema) return null;
  if ("default" in schema) return schema.default;
  if (schema.enum) return schema.enum[0];
  const variant = schema.anyOf ?? schema.oneOf;
  if (variant) return example(variant[0]);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  switch (type) {
    case "object": return exampleObject(schema);
    case "array": return schema.minItems > 0 ? [example(schema.items)] : [];
    case "integer":
    case "number": return schema.minimum ?? 0;
    case "boolean": return false;
    case "string": return "";
    default: return null;
  }
}

// Required members; where nothing is required, what has a default.
function exampleObject(schema) {
  const properties = schema.properties ?? {};
  const required = schema.required ?? [];
  const names = Object.keys(properties).filter((name) => required.includes(name));
  const value = {};
  for (const name of names) value[name] = example(properties[name]);
  return value;
}

function typeText(schema) {
  const type = [schema.type ?? "any"].flat().join(" or ");
  const range = schema.minimum !== undefined ? ` ${schema.minimum} to ${schema.maximum ?? "…"}` : "";
  const values = schema.enum ? `: ${schema.enum.join(", ")}` : "";
  const fallback = schema.default !== undefined ? `, default ${JSON.stringify(schema.default)}` : "";
  return `${type}${range}${values}${fallback}`;
}

function showSchema(schema) {
  const list = element("div", { class: "fields" });
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    const isRequired = (schema.required ?? []).includes(name);
    list.append(
      element("label", { class: isRequired ? "required" : "" }, name),
      element("div", {}, typeText(property), element("small", {}, property.description ?? "")),
    );
  }
  return list;
}

// --- One operation ---

function parameterInput(parameter) {
  const { schema } = parameter;
  if (schema.enum)
    return element("select", { name: parameter.name }, element("option", { value: "" }, "—"),
      ...schema.enum.map((value) => element("option", { value }, value)));
  return element("input", {
    name: parameter.name,
    type: schema.type === "integer" ? "number" : "text",
    min: schema.minimum,
    max: schema.maximum,
    required: parameter.required,
    spellcheck: "false",
  });
}

function parameterFields(operation, id) {
  const list = element("div", { class: "fields" });
  const inputs = [];
  for (const parameter of operation.parameters ?? []) {
    const input = parameterInput(parameter);
    input.id = `${id}-${parameter.in}-${parameter.name}`;
    inputs.push({ parameter, input });
    list.append(
      element("label", { for: input.id, class: parameter.required ? "required" : "" }, parameter.name),
      element("div", {}, input,
        element("small", {}, `${parameter.in}; ${typeText(parameter.schema)}. ${parameter.description ?? ""}`)),
    );
  }
  return { list, inputs };
}

function buildRequest(method, path, inputs, body) {
  const query = new URLSearchParams();
  const extra = {};
  let target = path;
  for (const { parameter, input } of inputs) {
    if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (input.value === "") continue;
    else if (parameter.in === "query") query.set(parameter.name, input.value);
    else extra[parameter.name] = input.value;
  }
  if (body !== undefined) extra["Content-Type"] = "application/json";
  const text = query.toString();
  return [text ? `${target}?${text}` : target, { method: method.toUpperCase(), headers: headers(extra), body }];
}

async function showStream(response, output) {
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const text = element("pre");
  output.append(
    element("button", { type: "button", onclick: () => reader.cancel() }, "Stop"),
    text,
  );
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text.textContent = (text.textContent + decoder.decode(value, { stream: true })).slice(-EVENTS_SHOWN_MAX);
  }
}

async function showBlob(response, type, output) {
  const url = URL.createObjectURL(await response.blob());
  if (type.startsWith("image/")) output.append(element("img", { src: url, alt: "The answer" }));
  else output.append(element("a", { href: url, download: "answer" }, `Save (${type})`));
}

async function showAnswer(response, output) {
  const type = response.headers.get("Content-Type") ?? "";
  const location = response.headers.get("Location");
  output.replaceChildren(element("p", { class: response.ok ? "" : "failed" },
    `${response.status} ${response.statusText}${location ? `, Location: ${location}` : ""}`));
  if (type.startsWith("text/event-stream")) await showStream(response, output);
  else if (type.startsWith("application/json")) {
    const text = await response.text();
    output.append(element("pre", {}, text && JSON.stringify(JSON.parse(text), null, 2)));
  } else if (type.startsWith("text/")) output.append(element("pre", {}, await response.text()));
  else await showBlob(response, type, output);
}

function operationForm(method, path, operation) {
  const { list, inputs } = parameterFields(operation, operation.operationId);
  const schema = operation.requestBody?.content?.["application/json"]?.schema;
  const takesBody = schema || BODY_METHODS.has(method);
  const area = element("textarea", { "aria-label": "Body", spellcheck: "false" });
  const output = element("div", { class: "answer", "aria-live": "polite" });
  if (schema) area.value = JSON.stringify(example(schema), null, 2);

  async function send(event) {
    event.preventDefault();
    const body = takesBody && area.value.trim() !== "" ? area.value : undefined;
    output.replaceChildren("…");
    try {
      await showAnswer(await fetch(...buildRequest(method, path, inputs, body)), output);
    } catch (failure) {
      output.append(element("p", { class: "failed" }, String(failure)));
    }
  }

  return element("form", { onsubmit: send },
    inputs.length ? element("h3", {}, "Parameters") : "", list,
    ...(takesBody ? [element("h3", {}, "Body"), area] : []),
    ...(schema ? [element("details", {}, element("summary", {}, "Fields"), element("div", {}, showSchema(schema)))] : []),
    element("p", {}, element("button", { class: "send" }, "Send")), output);
}

function showResponses(operation) {
  return element("details", {}, element("summary", {}, "Answers"),
    element("div", { class: "fields" },
      ...Object.entries(operation.responses).flatMap(([status, response]) =>
        [element("label", {}, status), element("div", {}, response.description)])));
}

function showOperation(method, path, operation) {
  const content = element("div");
  const scope = operation["x-scope"];
  // Filled when it is opened: a page of some hundred forms at once is slow.
  function fill() {
    if (content.childElementCount > 0) return;
    content.append(
      element("p", { class: "scope" }, scope === "public" ? "Needs no key." : `Needs the scope “${scope}”.`),
      operationForm(method, path, operation),
      showResponses(operation),
    );
  }
  return element("details", { "data-text": `${method} ${path} ${operation.summary}`.toLowerCase(), ontoggle: fill },
    element("summary", {},
      element("span", { class: `method ${method}` }, method.toUpperCase()),
      element("span", { class: "path" }, path),
      element("span", { class: "summary" }, operation.summary)),
    content);
}

// --- The whole ---

function showDocument(description) {
  const groups = new Map((description.tags ?? []).map((tag) => [tag.name, []]));
  for (const [path, methods] of Object.entries(description.paths))
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(showOperation(method, path, operation));
    }
  document.getElementById("version").textContent = description.info.version;
  document.getElementById("about").textContent = description.info.description;
  document.getElementById("operations").replaceChildren(
    ...[...groups].filter(([, operations]) => operations.length > 0).map(([tag, operations]) => element("section", {}, element("h2", {}, tag), ...operations)));
}

async function load() {
  try {
    const response = await fetch("/openapi.json", { headers: headers() });
    if (!response.ok) {
      tell(response.status === 401 ? "Enter a key, or log in on the page." : `openapi.json: ${response.status}`, true);
      return;
    }
    showDocument(await response.json());
    tell("");
  } catch (failure) {
    tell(String(failure), true);
  }
}

document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key = document.getElementById("key").value.trim();
  sessionStorage.setItem("docs-key", key);
  load();
});

document.getElementById("filter").addEventListener("input", (event) => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const operation of document.querySelectorAll("details[data-text]"))
    operation.hidden = !words.every((word) => operation.dataset.text.includes(word));
});

document.getElementById("key").value = key;
load();
