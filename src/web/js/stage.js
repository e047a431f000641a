// The stage: what is being drawn, what waits, and what was drawn last.
import { cancelJob, imageUrl } from "./api.js";
import { announce, byId, make, makeButton, toast } from "./dom.js";
import { openDetails } from "./details.js";
import { fillForm, submitAgain } from "./form.js";
import { problem, seconds, t, withLanguage } from "./i18n.js";
import { isActive, jobs, promptOf } from "./jobs.js";
import { live } from "./live.js";

const BASE64 = /^[A-Za-z0-9+/=]+$/;

/** Cards by job: {root, cells, bar, line, ...}. */
const cards = new Map();

/** Key of the examples' texts. */
let examples = "example";

function columnsOf(count) {
    return Math.ceil(Math.sqrt(count));
}

// --- One card ---

function makeView(job) {
    const { width = 1, height = 1, count = 1 } = job.parameters ?? {};
    const columns = columnsOf(count);
    const rows = Math.ceil(count / columns);
    const makeCell = () => make("button", { type: "button", className: "cell", disabled: true });
    const cells = Array.from({ length: count }, makeCell);
    const style = { "--columns": columns, "--ratio": (columns * width) / (rows * height), "--cell": width / height };
    const view = make("div", { className: "view", style }, ...cells);

    cells.forEach((cell, index) =>
        cell.addEventListener("click", () => {
            const image = jobs.get(job.id)?.images.find((candidate) => candidate.index === index);
            if (image)
                openDetails(image.id);
        }),
    );
    return { view, cells };
}

function makeCard(job) {
    const { view, cells } = makeView(job);
    const card = {
        cells,
        hasPrompt: Boolean(job.parameters),
        bar: make("div", { className: "bar", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, make("span")),
        prompt: make("p", { className: "card-prompt prose" }, promptOf(job)),
        line: make("p", { className: "card-line" }),
        actions: make("div", { className: "card-actions" }),
    };

    card.root = make(
        "article",
        { className: "card", "data-job": job.id },
        view,
        card.bar,
        make("div", { className: "card-foot" }, make("div", { className: "card-words" }, card.prompt, card.line), card.actions),
    );
    cards.set(job.id, card);
    return card;
}

function showImage(cell, source, alt) {
    const image = cell.querySelector("img") ?? cell.appendChild(make("img", { decoding: "async" }));

    image.src = source;
    image.alt = alt;
}

// --- What a card says ---

function queuedWords(job) {
    const words = [job.position > 0 ? t("state.position", { n: job.position }) : t("state.queued")];

    if (typeof job.wait_seconds === "number" && job.wait_seconds >= 0)
        words.push(t("state.starts", { time: seconds(job.wait_seconds) }));
    return words;
}

function runningWords(job) {
    const words = [t(`phase.${job.phase || "wait"}`)];

    if (job.phase === "denoise" && job.steps > 0)
        words.push(t("phase.step", { step: job.step, steps: job.steps }));
    if (typeof job.seconds_left === "number" && job.seconds_left > 0)
        words.push(t("phase.left", { time: seconds(job.seconds_left) }));
    if (job.attempts > 1)
        words.push(t("attempt", { n: job.attempts }));
    return words;
}

function words(job) {
    switch (job.state) {
    case "queued":
        return queuedWords(job);
    case "running":
        return runningWords(job);
    case "failed":
        return [t("state.failed"), problem({ ...job.error, detail: job.error?.message })];
    case "cancelled":
        return [t("state.cancelled")];
    default:
        return [t("state.done"), ...(job.result?.total_seconds ? [seconds(job.result.total_seconds)] : [])];
    }
}

async function cancel(job) {
    try {
        jobs.put(await cancelJob(job.id));
    } catch (error) {
        toast(problem(error));
    }
}

function dismiss(job) {
    cards.get(job.id)?.root.remove();
    cards.delete(job.id);
    arrange();
    byId("prompt").focus();
}

/** The pictures that a job came with are not kept: it cannot be sent again. */
function retryActions(job) {
    const retry = () => {
        dismiss(job);
        submitAgain(job);
    };

    return job.parameters?.has_init_image ? [] : [makeButton("reuse", t("retry"), retry, { text: true })];
}

function actions(job) {
    if (isActive(job))
        return [makeButton("close", t("cancel"), () => cancel(job), { text: true })];
    if (job.state === "failed")
        return [...retryActions(job), makeButton("close", t("dismiss"), () => dismiss(job))];
    return [
        makeButton("reuse", t("details.use"), () => fillForm({ ...job.parameters, seed: undefined })),
        makeButton("close", t("dismiss"), () => dismiss(job)),
    ];
}

function fill(card, job) {
    const percent = Math.round((job.progress ?? 0) * 100);
    const mode = `${job.state} ${isActive(job)} ${document.documentElement.lang}`;

    card.root.className = `card ${job.state}`;
    card.line.textContent = words(job).join(" · ");
    card.bar.hidden = job.state !== "running";
    card.bar.setAttribute("aria-label", t("progress"));
    card.bar.setAttribute("aria-valuenow", percent);
    card.bar.firstChild.style.setProperty("--done", percent / 100);
    for (const image of job.images) {
        const cell = card.cells[image.index];

        if (cell && cell.disabled) {
            cell.disabled = false;
            cell.classList.remove("is-preview");
            showImage(cell, imageUrl(image.id), promptOf(job));
        }
    }
    // Buttons are kept while they mean the same, so that focus stays.
    if (card.mode !== mode)
        card.actions.replaceChildren(...actions(job));
    card.mode = mode;
}

// --- The stage as a whole ---

const RANK = { running: 0, done: 1, failed: 2, queued: 3 };

function rank(job) {
    return [RANK[job.state] ?? 4, job.state === "queued" ? (job.position || 1e9) : 0];
}

/** Running cards first, then the last result, failures, and the queue in its order. */
function arrange() {
    const shown = [...cards.keys()].map((id) => jobs.get(id)).filter(Boolean);
    const sorted = shown.sort((a, b) => rank(a)[0] - rank(b)[0] || rank(a)[1] - rank(b)[1]);
    const box = byId("cards");

    sorted.forEach((job, index) => {
        const { root } = cards.get(job.id);
        if (box.children[index] !== root)
            box.insertBefore(root, box.children[index] ?? null);
    });
    byId("stage-empty").hidden = sorted.length > 0;
}

/** The last result stays until the next is there. */
function removeResults(except) {
    for (const [id, card] of [...cards])
        if (id !== except && jobs.get(id)?.state === "done") {
            card.root.remove();
            cards.delete(id);
        }
}

function tell(job, before) {
    if (!before || before.state === job.state)
        return;
    if (job.state === "done")
        announce(t("announce.done", { prompt: promptOf(job) }));
    else if (job.state === "failed")
        announce(t("announce.failed", { reason: problem({ ...job.error }) }));
    else if (job.state === "cancelled")
        announce(t("announce.cancelled"));
}

function take({ detail: { job, before } }) {
    let card = cards.get(job.id);

    tell(job, before);
    if (job.state === "cancelled") {
        card?.root.remove();
        cards.delete(job.id);
        arrange();
        return;
    }
    if (card && !card.hasPrompt && job.parameters) {
        card.root.remove();
        card = null;
    }
    // What ended before the page came is history.
    if (!card && !isActive(job))
        return;
    card ??= makeCard(job);
    fill(card, job);
    if (job.state === "done")
        removeResults(job.id);
    arrange();
}

function takePreview({ detail: { job: id, image, jpeg } }) {
    const cell = cards.get(id)?.cells[image];

    if (!cell || !cell.disabled || typeof jpeg !== "string" || !BASE64.test(jpeg))
        return;
    cell.classList.add("is-preview");
    showImage(cell, `data:image/jpeg;base64,${jpeg}`, t("preview.alt", { prompt: promptOf(jobs.get(id)) }));
}

export function cancelRunning() {
    const running = jobs.active().filter((job) => job.state === "running");

    for (const job of running.length ? running : jobs.active().slice(-1))
        cancel(job);
}

function makeExample(prompt) {
    const take = () => {
        fillForm({ prompt });
        byId("prompt").focus();
    };

    return make("button", { type: "button", className: "example prose", on: { click: take } }, prompt);
}

function showExamples() {
    byId("examples").replaceChildren(...[1, 2, 3].map((n) => make("li", {}, makeExample(t(`${examples}.${n}`)))));
}

/** The model that ships with the server knows single things on plain backgrounds only. */
export function setExamples(model) {
    examples = /^demo(-turbo)?$/.test(model) ? "example.demo" : "example";
    showExamples();
}

export function startStage() {
    jobs.addEventListener("job", take);
    jobs.addEventListener("gone", ({ detail: id }) => {
        cards.get(id)?.root.remove();
        cards.delete(id);
        arrange();
    });
    live.addEventListener("preview", takePreview);
    withLanguage(() => {
        showExamples();
        for (const [id, card] of cards)
            fill(card, jobs.get(id));
    });
    arrange();
}
