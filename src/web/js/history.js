// The history: finished pictures, newest first, loaded page by page; search, stars, selection.
import { deleteJob, fetchZip, listJobs, starImage, thumbnailUrl } from "./api.js";
import { byId, make, makeIcon, settle, toast } from "./dom.js";
import { confirmDelete } from "./dialogs.js";
import { openDetails } from "./details.js";
import { problem, t, withLanguage } from "./i18n.js";
import { isActive, jobs, promptOf } from "./jobs.js";

const PAGE_JOBS = 40;

/** Tiles in their order: {image, job (id), root}. */
let tiles = [];
let cursor = null;
let isLoading = false;
let isFilling = false; // jobs are put in by a page of the list, which adds their tiles itself
let round = 0; // counts fresh starts, so that an old answer is told from a new one
const chosen = new Set(); // ids of pictures
let isSelecting = false;

const filters = () => ({ search: byId("search").value.trim(), starred: byId("starred").getAttribute("aria-pressed") === "true" });

// --- Tiles ---

function showStar(tile) {
    tile.star.setAttribute("aria-pressed", String(tile.image.starred));
    tile.star.setAttribute("aria-label", t(tile.image.starred ? "unstar" : "star"));
}

const tileOf = (imageId) => tiles.find((tile) => tile.image.id === imageId);

function setStar(imageId, starred) {
    const tile = tileOf(imageId);
    const found = jobs.findImage(imageId);

    if (found)
        found.image.starred = starred;
    if (tile) {
        tile.image.starred = starred;
        showStar(tile);
    }
}

/** Shown at once, and taken back when the server refuses. */
export async function toggleStar(imageId) {
    const starred = !jobs.findImage(imageId)?.image.starred;

    setStar(imageId, starred);
    try {
        await starImage(imageId, starred);
    } catch (error) {
        setStar(imageId, !starred);
        toast(problem(error));
    }
}

function nameTile(tile) {
    const prompt = promptOf(jobs.get(tile.job) ?? {});

    tile.open.setAttribute("aria-label", t(isSelecting ? "picture.select" : "picture.open", { prompt }));
    if (isSelecting)
        tile.open.setAttribute("aria-pressed", String(chosen.has(tile.image.id)));
    else
        tile.open.removeAttribute("aria-pressed");
    showStar(tile);
}

function activate(tile) {
    if (!isSelecting) {
        openDetails(tile.image.id);
        return;
    }
    if (!chosen.delete(tile.image.id))
        chosen.add(tile.image.id);
    nameTile(tile);
    showSelection();
}

function makeTile(job, image) {
    const tile = { image, job: job.id };

    tile.open = make(
        "button",
        { type: "button", className: "tile-open", on: { click: () => activate(tile) } },
        make("img", {
            src: thumbnailUrl(image.id),
            alt: "",
            loading: "lazy",
            decoding: "async",
            width: image.width,
            height: image.height,
        }),
        make("span", { className: "tile-mark" }, makeIcon("check")),
    );
    tile.star = make(
        "button",
        { type: "button", className: "tile-star", on: { click: () => toggleStar(image.id) } },
        makeIcon("star"),
    );
    tile.root = make(
        "li",
        {
            className: "tile",
            "data-image": image.id,
            "data-job": job.id,
            style: { "--ratio": image.width / image.height },
        },
        tile.open,
        tile.star,
    );
    nameTile(tile);
    return tile;
}

function tilesOf(job) {
    const { starred } = filters();

    return [...job.images]
        .sort((a, b) => a.index - b.index)
        .filter((image) => !starred || image.starred)
        .map((image) => makeTile(job, image));
}

function showEmpty() {
    const { search, starred } = filters();

    byId("history-empty").hidden = tiles.length > 0 || isLoading;
    byId("history-empty").textContent = t(search || starred ? "history.nothing" : "history.none");
    byId("more").hidden = cursor === null;
}

// --- Loading ---

const hasTiles = (job) => tiles.some((tile) => tile.job === job.id);

async function loadPage() {
    const mine = round;
    let failed = false;

    if (isLoading)
        return;
    isLoading = true;
    try {
        const page = await listJobs({ cursor, limit: PAGE_JOBS, ...filters() });
        if (mine !== round)
            return;
        cursor = page.cursor;
        isFilling = true;
        page.jobs.forEach((job) => jobs.put(job));
        isFilling = false;
        for (const job of page.jobs.filter((candidate) => !isActive(candidate) && !hasTiles(candidate))) {
            const fresh = tilesOf(job);

            tiles.push(...fresh);
            byId("grid").append(...fresh.map((tile) => tile.root));
        }
    } catch (error) {
        isFilling = false;
        if (mine === round && error.status !== 401)
            toast(problem(error));
        failed = true;
    } finally {
        if (mine === round) {
            isLoading = false;
            showEmpty();
        }
    }
    // A page may hold few pictures, and the end of the list still be in sight.
    if (mine === round && !failed && cursor !== null && byId("more").getBoundingClientRect().top < 2 * innerHeight)
        await loadPage();
}

/** Starts anew from the newest. */
export async function loadHistory() {
    round++;
    isLoading = false;
    cursor = null;
    tiles = [];
    byId("grid").replaceChildren();
    await loadPage();
}

/** Drops everything: the login is over. */
export function clearHistory() {
    round++;
    tiles = [];
    cursor = null;
    endSelection();
    byId("grid").replaceChildren();
}

/** Another page may have given the stars. */
function followStars(job) {
    for (const tile of tiles.filter((candidate) => candidate.job === job.id)) {
        tile.image = job.images.find((image) => image.id === tile.image.id) ?? tile.image;
        showStar(tile);
    }
}

function take({ detail: { job, before } }) {
    const { search, starred } = filters();

    followStars(job);
    if (isFilling || !before || !isActive(before) || isActive(job) || search || starred || hasTiles(job))
        return;
    const fresh = tilesOf(job);
    tiles.unshift(...fresh);
    byId("grid").prepend(...fresh.map((tile) => tile.root));
    showEmpty();
}

function drop(jobId) {
    for (const tile of tiles.filter((candidate) => candidate.job === jobId)) {
        chosen.delete(tile.image.id);
        tile.root.remove();
    }
    tiles = tiles.filter((tile) => tile.job !== jobId);
    showEmpty();
    showSelection();
}

// --- Deleting ---

async function deleteJobs(ids) {
    for (const id of ids) {
        try {
            await deleteJob(id);
            jobs.remove(id);
        } catch (error) {
            if (error.status !== 404) {
                toast(problem(error));
                return;
            }
            jobs.remove(id);
        }
    }
    toast(t("deleted"));
}

/** Asks, and deletes the request that made a picture; true: it is gone. */
export async function deletePicture(imageId) {
    const { job } = jobs.findImage(imageId);
    const others = job.images.length - 1;

    if (!(await confirmDelete(others > 0 ? t("confirm.job", { count: others }) : t("confirm.one"))))
        return false;
    await deleteJobs([job.id]);
    return !jobs.get(job.id);
}

// --- Selection ---

function showSelection() {
    byId("selection").hidden = !isSelecting;
    byId("selection-count").textContent = t("selection.count", { count: chosen.size });
    byId("selection-zip").disabled = byId("selection-delete").disabled = chosen.size === 0;
}

function setSelecting(is) {
    isSelecting = is;
    chosen.clear();
    byId("select").setAttribute("aria-pressed", String(is));
    byId("grid").classList.toggle("is-selecting", is);
    tiles.forEach(nameTile);
    showSelection();
}

function endSelection() {
    setSelecting(false);
}

async function downloadZip() {
    const button = byId("selection-zip");

    button.disabled = true;
    try {
        const url = URL.createObjectURL(await fetchZip([...chosen]));

        make("a", { href: url, download: "sd35.zip" }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60000);
    } catch (error) {
        toast(problem(error));
    }
    showSelection();
}

async function deleteChosen() {
    const ids = new Set(tiles.filter((tile) => chosen.has(tile.image.id)).map((tile) => tile.job));
    const count = tiles.filter((tile) => ids.has(tile.job)).length;

    if (!(await confirmDelete(t("confirm.many", { count }))))
        return;
    await deleteJobs(ids);
    endSelection();
    byId("select").focus();
}

// --- Keys ---

/** The tile above or below another: the nearest in the next row. */
function inNextRow(from, direction) {
    const here = from.root.getBoundingClientRect();
    const middle = here.left + here.width / 2;
    let best = null;
    let bestDistance = Infinity;

    for (const tile of tiles) {
        const box = tile.root.getBoundingClientRect();
        const rows = direction * (box.top - here.top);
        const distance = Math.abs(box.left + box.width / 2 - middle) + 1000 * rows;

        if (rows > 1 && distance < bestDistance)
            [best, bestDistance] = [tile, distance];
    }
    return best;
}

function move(event) {
    const at = tiles.findIndex((tile) => tile.root.contains(document.activeElement));
    let to = null;

    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey)
        return;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight")
        to = tiles[at + (event.key === "ArrowLeft" ? -1 : 1)];
    else if (event.key === "ArrowUp" || event.key === "ArrowDown")
        to = inNextRow(tiles[at], event.key === "ArrowUp" ? -1 : 1);
    else if (event.key === ".")
        toggleStar(tiles[at].image.id);
    else
        return;
    event.preventDefault();
    to?.open.focus();
}

/** What details show: the tile of a picture and its neighbours. */
export function pictureAt(imageId) {
    const at = tiles.findIndex((tile) => tile.image.id === imageId);

    return {
        index: at,
        count: tiles.length,
        previous: tiles[at - 1]?.image.id,
        next: at < 0 ? undefined : tiles[at + 1]?.image.id,
    };
}

export function focusPicture(imageId) {
    tileOf(imageId)?.open.focus();
}

export function startHistory() {
    jobs.addEventListener("job", take);
    jobs.addEventListener("gone", ({ detail: id }) => drop(id));
    byId("search").addEventListener("input", settle(loadHistory, 250));
    byId("starred").addEventListener("click", (event) => {
        const button = event.currentTarget;

        button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
        loadHistory();
    });
    byId("select").addEventListener("click", () => setSelecting(!isSelecting));
    byId("selection-end").addEventListener("click", () => {
        endSelection();
        byId("select").focus();
    });
    byId("selection-zip").addEventListener("click", downloadZip);
    byId("selection-delete").addEventListener("click", deleteChosen);
    byId("grid").addEventListener("keydown", move);
    byId("more").addEventListener("click", loadPage);
    new IntersectionObserver((entries) => {
        if (entries.some((entry) => entry.isIntersecting) && cursor !== null)
            loadPage();
    }, { rootMargin: "800px" }).observe(byId("more"));
    withLanguage(() => {
        tiles.forEach(nameTile);
        showEmpty();
        showSelection();
    });
}
