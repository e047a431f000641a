// A picture by itself: large, with what it was made of and what can be done with it.
import { downloadUrl, imageUrl, readMetadata } from "./api.js";
import { announce, byId, make, makeButton, makeIcon } from "./dom.js";
import { useParameters } from "./form.js";
import { deletePicture, focusPicture, pictureAt, toggleStar } from "./history.js";
import { bytes, moment, seconds, t, withLanguage } from "./i18n.js";
import { jobs, promptOf } from "./jobs.js";
import { setSourceFromHistory } from "./source_picture.js";

/** Id of the picture that is shown; null: none. */
let current = null;

// --- Actions ---

function close() {
    byId("details").close();
}

function use({ job, image }) {
    close();
    useParameters(job.parameters, String(image.seed));
}

async function startFrom({ job, image }) {
    close();
    await setSourceFromHistory(image);
    useParameters({
        width: image.width,
        height: image.height,
        prompt: promptOf(job),
        negative_prompt: job.parameters.negative_prompt ?? "",
    });
}

async function star({ image }) {
    await toggleStar(image.id);
    if (current === image.id)
        showStar(jobs.findImage(image.id).image);
}

async function remove({ image }) {
    const { previous, next } = pictureAt(image.id);
    const { job } = jobs.findImage(image.id);

    if (!(await deletePicture(image.id)))
        return;
    const neighbour = [next, previous].find((id) => id && !job.images.some((other) => other.id === id));
    if (neighbour && jobs.findImage(neighbour))
        show(neighbour);
    else
        close();
}

async function copyPrompt({ job }) {
    await navigator.clipboard.writeText(promptOf(job));
    announce(t("details.copied"));
}

function go(imageId) {
    if (imageId)
        show(imageId);
}

// --- Looks ---

function showStar(image) {
    const button = byId("details").querySelector(".details-star");

    button.setAttribute("aria-pressed", String(image.starred));
    button.lastChild.textContent = t(image.starred ? "unstar" : "star");
}

function facts({ job, image }) {
    const { steps, guidance_scale, strength, has_init_image } = job.parameters ?? {};

    return [
        [t("size"), `${image.width} × ${image.height}`],
        [t("steps"), steps],
        [t("guidance"), guidance_scale],
        [t("seed"), image.seed],
        [t("strength"), has_init_image ? strength : undefined],
        [t("details.file"), `${image.format.toUpperCase()}, ${bytes(image.bytes)}`],
        [t("details.created"), moment(job.created_at)],
        [t("details.took"), job.result?.total_seconds ? seconds(job.result.total_seconds) : undefined],
    ].filter(([, value]) => value !== undefined && value !== "");
}

const makeFact = ([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)));

function makeAll(imageId) {
    const text = make("pre", { tabIndex: 0 });

    return make(
        "details",
        {
            className: "details-all",
            on: {
                toggle: async (event) => {
                    if (!event.target.open || text.textContent)
                        return;
                    const metadata = await readMetadata(imageId).catch(() => ({}));
                    text.textContent = JSON.stringify(metadata, null, 2);
                },
            },
        },
        make("summary", {}, t("details.all")),
        text,
    );
}

function makeActions(found) {
    const starButton = makeButton("star", t("star"), () => star(found), { text: true, className: "wide details-star" });
    const download = make(
        "a",
        { className: "wide button", href: downloadUrl(found.image.id), download: "" },
        makeIcon("download"),
        make("span", {}, t("details.download")),
    );

    return make(
        "div",
        { className: "details-actions" },
        makeButton("reuse", t("details.use"), () => use(found), { text: true, className: "primary wide" }),
        makeButton("picture", t("details.source"), () => startFrom(found), { text: true, className: "wide" }),
        download,
        starButton,
        makeButton("trash", t("delete"), () => remove(found), { text: true, className: "wide danger" }),
    );
}

function makeSide(found) {
    const { job, image } = found;
    const negative = job.parameters?.negative_prompt;

    return make(
        "div",
        { className: "details-side" },
        make("h3", {}, t("prompt"), navigator.clipboard ? makeButton("copy", t("details.copy"), () => copyPrompt(found)) : null),
        make("p", { className: "prose details-prompt" }, promptOf(job)),
        ...(negative ? [make("h3", {}, t("negative")), make("p", { className: "prose details-negative" }, negative)] : []),
        make("dl", { className: "facts" }, ...facts(found).map(makeFact)),
        makeActions(found),
        makeAll(image.id),
    );
}

function makeStage({ job, image }) {
    const { index, count, previous, next } = pictureAt(image.id);
    const arrow = (icon, key, id) => {
        const button = makeButton(icon, t(key), () => go(id), { className: `quiet details-${icon}` });

        button.disabled = !id;
        return button;
    };

    return make(
        "div",
        { className: "details-stage" },
        arrow("previous", "details.previous", previous),
        make(
            "a",
            {
                className: "details-picture",
                href: imageUrl(image.id),
                target: "_blank",
                rel: "noopener",
                title: t("details.open"),
                style: { "--ratio": image.width / image.height, "--width": image.width },
            },
            make("img", {
                src: imageUrl(image.id),
                alt: promptOf(job),
                width: image.width,
                height: image.height,
            }),
        ),
        arrow("next", "details.next", next),
        index < 0 ? null : make("p", { className: "details-place" }, t("details.picture", { index: index + 1, count })),
    );
}

function show(imageId) {
    const found = jobs.findImage(imageId);
    const dialog = byId("details");
    const focused = document.activeElement?.className;

    if (!found)
        return;
    current = imageId;
    dialog.replaceChildren(makeStage(found), makeSide(found), makeButton("close", t("close"), close, { className: "quiet details-close" }));
    showStar(found.image);
    // The arrows stay under the finger.
    if (focused && dialog.open)
        [...dialog.querySelectorAll("button")].find((button) => button.className === focused && !button.disabled)?.focus();
}

export function openDetails(imageId) {
    show(imageId);
    if (current && !byId("details").open) {
        byId("details").showModal();
        byId("details").querySelector(".details-actions .primary").focus({ preventScroll: true });
    }
}

function press(event) {
    const found = current && jobs.findImage(current);
    const { previous, next } = pictureAt(current);
    const keys = {
        ArrowLeft: () => go(previous),
        ArrowRight: () => go(next),
        u: () => use(found),
        i: () => startFrom(found),
        d: () => byId("details").querySelector("a.button").click(),
        ".": () => star(found),
        Delete: () => remove(found),
    };
    const run = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];

    if (!found || !run || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("pre"))
        return;
    event.preventDefault();
    event.stopPropagation();
    run();
}

export function startDetails() {
    const dialog = byId("details");

    dialog.addEventListener("keydown", press);
    dialog.addEventListener("close", () => {
        const last = current;

        current = null;
        dialog.replaceChildren();
        if (document.activeElement === document.body)
            focusPicture(last);
    });
    dialog.addEventListener("click", (event) => {
        if (event.target === dialog || event.target.matches(".details-stage"))
            close();
    });
    withLanguage(() => {
        if (current)
            show(current);
    });
    jobs.addEventListener("job", ({ detail: { job } }) => {
        const image = current && job.images.find((candidate) => candidate.id === current);

        if (image)
            showStar(image);
    });
}
