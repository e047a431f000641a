// The form: what is asked for. Kept as a draft, checked before it is sent.
import { submitJob } from "./api.js";
import { announce, byId, make, settle } from "./dom.js";
import { submitKeys } from "./dialogs.js";
import { problem, t, withLanguage } from "./i18n.js";
import { jobs } from "./jobs.js";
import { recall, remember } from "./memory.js";
import { clearSource, sourceData, sourceSize, startSource } from "./source_picture.js";

const FIELDS = ["prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "seed", "count", "format", "strength"];
const ERROR_FIELDS = ["prompt", "negative_prompt", "width", "height", "steps", "guidance_scale", "seed", "count", "init_image"];
const GRAIN = 16;
const SHAPES = [["square", 1, 1], ["landscape", 3, 2], ["portrait", 2, 3], ["wide", 16, 9], ["tall", 9, 16]];

const limits = { side: 2048, steps: 150, count: 16 };
const defaults = {
    width: 1024,
    height: 1024,
    steps: 28,
    guidance_scale: 4.5,
    count: 1,
    format: "png",
    strength: 0.6,
    seed_mode: "random",
};

let isTouched = false;

const value = (id) => byId(id).value;
const grain = (side) => Math.min(limits.side, Math.max(64, Math.round(side / GRAIN) * GRAIN));

// --- Size ---

/** The size of a shape with as many pixels as the model draws by default. */
function sizeOf(across, down) {
    const unit = Math.sqrt((defaults.width * defaults.height) / (across * down));

    return [grain(across * unit), grain(down * unit)];
}

function setSize(width, height) {
    byId("width").value = grain(width);
    byId("height").value = grain(height);
    changed();
}

function showShapes() {
    byId("shapes").replaceChildren(
        ...SHAPES.map(([name, across, down]) => {
            const [width, height] = sizeOf(across, down);
            const isCurrent = Number(value("width")) === width && Number(value("height")) === height;

            return make(
                "button",
                {
                    type: "button",
                    className: "shape",
                    title: `${t(`shape.${name}`)} · ${width} × ${height}`,
                    "aria-label": `${t(`shape.${name}`)}, ${width} × ${height}`,
                    "aria-pressed": String(isCurrent),
                    "data-shape": name,
                    on: {
                        click: () => {
                            setSize(width, height);
                            byId("shapes").querySelector(`[data-shape=${name}]`).focus();
                        },
                    },
                },
                make("span", { className: "shape-frame", style: { "--across": across, "--down": down } }),
            );
        }),
    );
}

// --- Values ---

function showPairs() {
    for (const id of ["steps", "guidance_scale"])
        byId(`${id}-range`).value = value(id);
    byId("strength-value").textContent = Number(value("strength")).toFixed(2);
    const isFixed = byId("seed-fixed").checked;
    byId("seed").disabled = !isFixed;
    byId("seed-draw").disabled = !isFixed;
}

// The draft is kept when typing pauses, and when the page goes; what nobody touched is none, so that
// the model's defaults stand.
function keepDraft() {
    if (!isTouched)
        return;
    const draft = Object.fromEntries(FIELDS.map((id) => [id, value(id)]));

    draft.seed_mode = byId("seed-fixed").checked ? "fixed" : "random";
    remember("draft", draft);
}
const keepSoon = settle(keepDraft, 300);

function show() {
    showPairs();
    showShapes();
    fitPrompts();
}

function changed() {
    isTouched = true;
    show();
    keepSoon();
}

function fill(parameters) {
    for (const id of FIELDS)
        if (parameters[id] !== undefined && parameters[id] !== null)
            byId(id).value = parameters[id];
    if (parameters.width)
        byId("width").value = grain(parameters.width);
    if (parameters.height)
        byId("height").value = grain(parameters.height);
    const mode = parameters.seed_mode ?? (parameters.seed === undefined ? null : "fixed");
    if (mode)
        byId(mode === "fixed" ? "seed-fixed" : "seed-random").checked = true;
    clearErrors();
    show();
}

/** Fills the fields that `parameters` names; the others stay. */
export function fillForm(parameters) {
    fill(parameters);
    changed();
}

/** Takes what a job was asked for, the seed of one of its pictures, and goes to the prompt. */
export function useParameters(parameters, seed) {
    const count = seed === undefined ? parameters.count : 1;

    fillForm({ ...parameters, seed: seed ?? parameters.seed, count, seed_mode: undefined });
    byId("prompt").focus();
    announce(t("used"));
}

// --- Errors ---

function clearErrors() {
    for (const id of ERROR_FIELDS) {
        byId(`${id}-error`).textContent = "";
        byId(id)?.removeAttribute("aria-invalid");
    }
    byId("form-error").textContent = "";
}

function setError(id, text) {
    byId(`${id}-error`).textContent = text;
    byId(id)?.setAttribute("aria-invalid", "true");
    return false;
}

function checkNumber(id, { whole = false } = {}) {
    const field = byId(id);
    const number = Number(field.value);

    if (field.value !== "" && number >= Number(field.min) && number <= Number(field.max) && (!whole || Number.isInteger(number)))
        return true;
    return setError(id, t("number.range", { min: field.min, max: field.max }));
}

function check() {
    clearErrors();
    if (!value("prompt").trim())
        setError("prompt", t("prompt.missing"));
    for (const id of ["width", "height"])
        if (!(Number(value(id)) >= 64 && Number(value(id)) <= limits.side))
            setError(id, t("size.range", { max: limits.side }));
    checkNumber("steps", { whole: true });
    checkNumber("guidance_scale");
    checkNumber("count", { whole: true });
    if (byId("seed-fixed").checked && !/^\d{1,19}$/.test(value("seed").trim()))
        setError("seed", t("seed.invalid"));
    const wrong = byId("form").querySelector("[aria-invalid]");
    wrong?.focus();
    return !wrong;
}

function showFailure(error) {
    if (ERROR_FIELDS.includes(error.field)) {
        setError(error.field, problem(error));
        byId(error.field)?.focus();
    } else {
        byId("form-error").textContent = problem(error);
    }
}

/** What kept the form from being sent is over. */
export function forgetFailure() {
    byId("form-error").textContent = "";
}

// --- Sending ---

async function collect() {
    const parameters = {
        prompt: value("prompt").trim(),
        width: Number(value("width")),
        height: Number(value("height")),
        steps: Number(value("steps")),
        guidance_scale: Number(value("guidance_scale")),
        count: Number(value("count")),
        format: value("format"),
    };
    const source = await sourceData();

    if (value("negative_prompt").trim())
        parameters.negative_prompt = value("negative_prompt").trim();
    if (byId("seed-fixed").checked)
        parameters.seed = value("seed").trim();
    if (source) {
        parameters.init_image = source;
        parameters.strength = Number(value("strength"));
    }
    return parameters;
}

/** Where all is one column, the stage is far from the button. */
function showStage() {
    if (matchMedia("(max-width: 899px)").matches)
        byId("cards").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

async function submit() {
    const button = byId("generate");

    if (button.disabled || !check())
        return;
    button.disabled = true;
    try {
        jobs.put(await submitJob(await collect()));
        announce(t("announce.queued"));
        showStage();
    } catch (error) {
        showFailure(error);
    } finally {
        button.disabled = false;
    }
}

/** Sends the parameters of a job again, one that came without pictures. */
export async function submitAgain(job) {
    const { has_init_image, has_mask, seed, ...parameters } = job.parameters;

    try {
        jobs.put(await submitJob({ ...parameters, seed: String(seed) }));
    } catch (error) {
        showFailure(error);
    }
}

// --- Start ---

// A prompt's field is as high as its text.
function fitPrompts() {
    for (const id of ["prompt", "negative_prompt"]) {
        const field = byId(id);

        field.style.height = "auto";
        field.style.height = `${Math.min(field.scrollHeight + 2, 320)}px`;
    }
}

function drawSeed() {
    byId("seed").value = crypto.getRandomValues(new Uint32Array(1))[0];
    changed();
}

function changeCount(by) {
    byId("count").value = Math.min(limits.count, Math.max(1, (Number(value("count")) || 1) + by));
    changed();
}

function startFields() {
    for (const id of ["steps", "guidance_scale"])
        byId(`${id}-range`).addEventListener("input", () => {
            byId(id).value = value(`${id}-range`);
        });
    for (const id of ["width", "height"])
        byId(id).addEventListener("change", () => setSize(Number(value("width")), Number(value("height"))));
    byId("swap").addEventListener("click", () => setSize(Number(value("height")), Number(value("width"))));
    byId("source-size").addEventListener("click", () => setSize(...fitSize(sourceSize())));
    byId("seed-fixed").addEventListener("change", () => {
        if (!value("seed"))
            drawSeed();
    });
    byId("seed-draw").addEventListener("click", drawSeed);
    byId("count-less").addEventListener("click", () => changeCount(-1));
    byId("count-more").addEventListener("click", () => changeCount(1));
}

/** A picture's size, or the like of it that the model can draw. */
function fitSize({ width, height }) {
    const scale = Math.min(1, limits.side / Math.max(width, height));

    return [width * scale, height * scale];
}

/** Takes the model's defaults and limits; a draft stays. */
export function setModel(model) {
    for (const [name, field] of [["side", "side_max"], ["steps", "steps_max"], ["count", "count_max"]])
        if (model.limits?.[field] > 0)
            limits[name] = model.limits[field];
    for (const name of ["width", "height", "steps", "guidance_scale"])
        if (model.defaults?.[name] !== undefined)
            defaults[name] = model.defaults[name];
    for (const id of ["width", "height"])
        byId(id).max = limits.side;
    byId("steps").max = limits.steps;
    byId("steps-range").max = Math.min(limits.steps, 60);
    byId("count").max = limits.count;
    byId("source-field").hidden = model.takes_images === false;
    if (model.takes_images === false)
        clearSource();
    keepDraft();
    fill({ ...defaults, ...recall("draft") });
}

/** For another person: nothing of this one's stays. */
export function forgetForm() {
    clearSource();
    remember("draft", null);
    fill({ prompt: "", negative_prompt: "", seed: "", ...defaults });
    isTouched = false;
}

export function setMayGenerate(may) {
    byId("generate").disabled = !may;
}

export function startForm() {
    const form = byId("form");

    startSource((parameters) => useParameters(parameters));
    startFields();
    form.addEventListener("input", changed);
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        submit();
    });
    addEventListener("pagehide", keepDraft);
    byId("generate-keys").textContent = submitKeys;
    fill({ ...defaults, ...recall("draft") });
    withLanguage(() => {
        clearErrors();
        showShapes();
    });
    return submit;
}
