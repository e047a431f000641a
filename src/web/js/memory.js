// What the browser keeps for the page: small values under "sd35.". Storage may be forbidden or full,
// and nothing depends on it.
export function recall(name) {
    try {
        return JSON.parse(localStorage.getItem(`sd35.${name}`));
    } catch {
        return null;
    }
}

export function remember(name, value) {
    try {
        localStorage.setItem(`sd35.${name}`, JSON.stringify(value));
    } catch {
        // The value is lost with the page.
    }
}
