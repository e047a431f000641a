// Languages: every text of the page comes from here, by its key.
import { english } from "./text_en.js";
import { chinese } from "./text_zh.js";
import { makeIcon } from "./dom.js";
import { recall, remember } from "./memory.js";

const languages = { en: english, zh: chinese };
const listeners = [];
let current = "en";

function preferred() {
    const kept = recall("language");

    if (kept in languages)
        return kept;
    return navigator.languages.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in languages) ?? "en";
}

/** The text of `key`, its {names} filled from `values`. `key|one` is taken for a count of 1. */
export function t(key, values = {}) {
    const table = languages[current];
    const text = (values.count === 1 && table[`${key}|one`]) || table[key] || english[key] || key;

    return text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

export const hasText = (key) => key in english;
export const language = () => current;

/** Fills what the HTML marks: data-text, data-label, data-placeholder, data-alt, and data-icon. */
export function fillTexts(root) {
    for (const element of root.querySelectorAll("[data-text]"))
        element.textContent = t(element.dataset.text);
    for (const element of root.querySelectorAll("[data-label]")) {
        element.setAttribute("aria-label", t(element.dataset.label));
        if (element.matches("button"))
            element.title = t(element.dataset.label);
    }
    for (const element of root.querySelectorAll("[data-placeholder]"))
        element.placeholder = t(element.dataset.placeholder);
    for (const element of root.querySelectorAll("[data-alt]"))
        element.alt = t(element.dataset.alt);
    for (const element of root.querySelectorAll("[data-icon]:not(:has(> svg))"))
        element.prepend(makeIcon(element.dataset.icon));
}

/** Calls `fill` now and whenever the language changes. */
export function withLanguage(fill) {
    listeners.push(fill);
    fill();
}

function apply() {
    document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
    fillTexts(document);
    for (const fill of listeners)
        fill();
}

export function startLanguage() {
    current = preferred();
    apply();
}

export function switchLanguage() {
    current = current === "en" ? "zh" : "en";
    remember("language", current);
    apply();
}

export function seconds(value) {
    if (value < 90)
        return t("time.seconds", { n: Math.max(1, Math.round(value)) });
    return t("time.minutes", { n: Math.round(value / 60) });
}

export function bytes(value) {
    const number = new Intl.NumberFormat(current, { maximumFractionDigits: 1 });

    if (value < 1e6)
        return `${number.format(value / 1e3)} kB`;
    return `${number.format(value / 1e6)} MB`;
}

export function moment(value) {
    const date = new Date(value);

    if (Number.isNaN(date.getTime()))
        return "";
    return new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" }).format(date);
}

/** Failures of which only the server's own words, which are English, say what it is about. */
const VAGUE = /^(bad_|invalid|unknown|too_large|request_too_large|out_of_memory|numeric|backend|internal|storage|store_)/;

/** A sentence for a failure: ours by its code where there is one, else the server's own words. */
export function problem(error) {
    const key = `error.${error.code}`;
    const own = hasText(key) ? t(key) : "";

    if (!own)
        return error.message || t("error.unknown");
    return error.detail && error.code !== "invalid_api_key" && VAGUE.test(error.code) ? `${own} (${error.detail})` : own;
}
