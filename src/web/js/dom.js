// Elements: made, found and filled. Text from outside only ever becomes text nodes.
import { icons } from "./icons.js";

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** Makes an element. `properties` are properties of the object; those with a "-" and role are
 *  attributes; `on` is an object of listeners, `style` one of custom properties. */
export function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);

    for (const [name, value] of Object.entries(properties)) {
        if (value === undefined || value === null)
            continue;
        if (name === "on")
            for (const [event, listener] of Object.entries(value))
                element.addEventListener(event, listener);
        else if (name === "style")
            for (const [key, text] of Object.entries(value))
                element.style.setProperty(key, String(text));
        else if (name.includes("-") || name === "role")
            element.setAttribute(name, value);
        else
            element[name] = value;
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
}

export function makeIcon(name) {
    const svg = document.createElementNS(SVG, "svg");

    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("class", "icon");
    svg.setAttribute("aria-hidden", "true");
    for (const line of icons[name]) {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("d", line);
        svg.append(path);
    }
    return svg;
}

/** A button with an icon; its name is read out and shown as a tooltip unless it is also `text`. */
export function makeButton(icon, label, onClick, { text = false, className = "" } = {}) {
    return make(
        "button",
        {
            type: "button",
            className: `${className || "quiet"}${text ? "" : " icon-only"}`,
            title: text ? "" : label,
            "aria-label": text ? null : label,
            on: { click: onClick },
        },
        icon ? makeIcon(icon) : null,
        text ? make("span", {}, label) : null,
    );
}

/** Says something to screen readers. */
export function announce(text) {
    byId("live").textContent = text;
}

/** A short note at the edge. */
export function toast(text) {
    const note = make("div", { className: "toast" }, make("p", {}, text));

    byId("toasts").append(note);
    setTimeout(() => note.remove(), 5000);
}

export function isTyping(target) {
    return target instanceof HTMLElement && target.matches("textarea, select, input:not([type=range], [type=radio], [type=checkbox])");
}

/** Calls `run` once calls have stopped for `ms`. */
export function settle(run, ms) {
    let timer;

    return (...values) => {
        clearTimeout(timer);
        timer = setTimeout(() => run(...values), ms);
    };
}
