// Package browser looks at the HTML report in a real browser, headless chromium. It is a module of its own, so that the
// program does not ask for what drives the browser.
package browser
