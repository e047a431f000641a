// The picture to start from: chosen, dropped, pasted, or taken from the history.
import { fetchImage } from "./api.js";
import { announce, byId } from "./dom.js";
import { problem, t } from "./i18n.js";
import { parseInfotext, readInfotext } from "./infotext.js";

const SIDE_MAX = 2048;
const FILE_BYTES_MAX = 12 << 20;


/** {blob, width, height, url} or null. */
let chosen = null;
let offered = null;
let useParameters = () => {};

function setError(text) {
    byId("init_image-error").textContent = text;
}

// The server takes PNG, JPEG and WebP. JPEGs are drawn anew, because cameras turn them by a note that the server does not follow; so are
// pictures that are larger than anything that can be drawn.
async function prepare(blob) {
    const bitmap = await createImageBitmap(blob);
    const scale = Math.min(1, SIDE_MAX / Math.max(bitmap.width, bitmap.height));
    const width = Math.round(bitmap.width * scale);
    const height = Math.round(bitmap.height * scale);

    if (scale < 1 || blob.type !== "image/png" || blob.size > FILE_BYTES_MAX) {
        const canvas = document.createElement("canvas");
        const type = blob.type === "image/png" && blob.size <= FILE_BYTES_MAX ? "image/png" : "image/jpeg";

        [canvas.width, canvas.height] = [width, height];
        const pen = canvas.getContext("2d");
        if (type === "image/jpeg") {
            pen.fillStyle = "#fff";
            pen.fillRect(0, 0, width, height);
        }
        pen.drawImage(bitmap, 0, 0, width, height);
        blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.95));
    }
    bitmap.close();
    return { blob, width, height };
}

function show() {
    byId("source-empty").hidden = Boolean(chosen);
    byId("source-chosen").hidden = !chosen;
    if (!chosen) {
        byId("source-image").removeAttribute("src");
        return;
    }
    byId("source-image").src = chosen.url;
    byId("source-name").textContent = `${chosen.name} · ${chosen.width} × ${chosen.height}`;
}

function offer(parameters) {
    offered = parameters;
    byId("source-offer").hidden = !parameters;
}

export function clearSource() {
    if (chosen)
        URL.revokeObjectURL(chosen.url);
    chosen = null;
    offer(null);
    setError("");
    show();
}

export async function setSource(blob, name) {
    let prepared;

    setError("");
    try {
        prepared = await prepare(blob);
    } catch {
        setError(t("source.bad"));
        return;
    }
    clearSource();
    chosen = { ...prepared, name, url: URL.createObjectURL(prepared.blob) };
    show();
    announce(t("source.set"));
    const infotext = await readInfotext(blob).catch(() => null);
    offer(infotext && parseInfotext(infotext));
}

export async function setSourceFromHistory(image) {
    try {
        await setSource(await fetchImage(image.id), t("source.from_history"));
        offer(null); // the picture's page has a button for that
    } catch (error) {
        setError(problem(error));
    }
}

/** The picture as the API takes it, a data URI; null: none. */
export function sourceData() {
    if (!chosen)
        return Promise.resolve(null);
    return new Promise((resolve, reject) => {
        const reader = new FileReader();

        reader.addEventListener("load", () => resolve(reader.result));
        reader.addEventListener("error", () => reject(reader.error));
        reader.readAsDataURL(chosen.blob);
    });
}

export const sourceSize = () => chosen && { width: chosen.width, height: chosen.height };

function takeFiles(files) {
    const file = [...files].find((candidate) => candidate.type.startsWith("image/"));

    if (file)
        setSource(file, file.name || t("source"));
    else if (files.length)
        setError(t("source.bad"));
    return Boolean(file);
}

function startDropping() {
    const cover = byId("drop-cover");
    const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

    addEventListener("dragenter", (event) => {
        if (hasFiles(event) && !byId("app").hidden)
            cover.hidden = false;
    });
    addEventListener("dragover", (event) => {
        if (hasFiles(event))
            event.preventDefault();
    });
    addEventListener("dragleave", (event) => {
        if (!event.relatedTarget)
            cover.hidden = true;
    });
    addEventListener("drop", (event) => {
        cover.hidden = true;
        if (!hasFiles(event))
            return;
        event.preventDefault();
        takeFiles(event.dataTransfer.files);
    });
}

/** `onParameters` gets the parameters that a picture carried. */
export function startSource(onParameters) {
    useParameters = onParameters;
    byId("source-choose").addEventListener("click", () => byId("source-file").click());
    byId("source-file").addEventListener("change", (event) => {
        takeFiles(event.target.files);
        event.target.value = "";
    });
    byId("source-clear").addEventListener("click", () => {
        clearSource();
        byId("source-choose").focus();
    });
    byId("offer-both").addEventListener("click", () => {
        useParameters(offered);
        offer(null);
    });
    byId("offer-only").addEventListener("click", () => {
        useParameters(offered);
        clearSource();
    });
    addEventListener("paste", (event) => {
        if (event.clipboardData?.files.length && takeFiles(event.clipboardData.files))
            event.preventDefault();
    });
    startDropping();
}
