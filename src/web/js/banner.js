// The banner: the server is loading, not ready, or gone. Silent when all is well.
import { readHealth } from "./api.js";
import { byId, settle } from "./dom.js";
import { t, withLanguage } from "./i18n.js";
import { live } from "./live.js";

const CALM_MS = 30000;
const WORRIED_MS = 2000;

let health = { ready: true };
let isConnected = true;
let timer = 0;
let onReady = () => {};

function words() {
    if (!health)
        return t("banner.gone");
    if (health.ready)
        return isConnected ? "" : t("banner.stream");
    if (health.status === "draining" || health.missing?.includes("draining"))
        return t("banner.draining");
    if (health.missing?.includes("disk_reserve"))
        return t("banner.disk");
    if (health.missing?.some((part) => part === "writable_outputs" || part === "outputs_folder"))
        return t("banner.outputs");
    return t(health.loading ? "banner.loading" : "banner.not_ready");
}

function show() {
    const text = words();
    const fraction = health && !health.ready ? health.loading?.fraction : undefined;

    byId("banner").hidden = !text;
    // Said once, not at every look.
    if (byId("banner-text").textContent !== text)
        byId("banner-text").textContent = text;
    byId("banner-progress").hidden = typeof fraction !== "number";
    if (typeof fraction === "number")
        byId("banner-progress").value = fraction;
}

async function look() {
    const wasReady = health?.ready;

    clearTimeout(timer);
    health = await readHealth();
    show();
    if (health?.ready && !wasReady)
        onReady();
    timer = setTimeout(look, health?.ready && isConnected ? CALM_MS : WORRIED_MS);
}

/** `ready` is called when the server becomes ready to draw. */
export function startBanner(ready) {
    onReady = ready;
    live.addEventListener("open", () => {
        isConnected = true;
        look();
    });
    live.addEventListener("lost", () => {
        // Each vain try to come back is told, too.
        if (!isConnected)
            return;
        isConnected = false;
        // Most interruptions are over before anybody has to know.
        clearTimeout(timer);
        timer = setTimeout(look, WORRIED_MS);
    });
    // A worker that loads tells of each part.
    live.addEventListener("worker", settle(look, 200));
    addEventListener("online", look);
    withLanguage(show);
    look();
}
