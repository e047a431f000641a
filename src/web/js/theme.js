// Sets the chosen theme before the first paint; a classic script, because modules come after it.
"use strict";
try {
    const theme = JSON.parse(localStorage.getItem("sd35.theme"));

    if (theme === "light" || theme === "dark")
        document.documentElement.dataset.theme = theme;
} catch {
    // Storage is forbidden or damaged: the system's theme stays.
}
