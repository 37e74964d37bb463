// The user's API key: for this tab, until it is closed. Never in a URL, never in storage that outlives the tab.
const NAME = "prefixrack.key";

export const readKey = () => sessionStorage.getItem(NAME);
export const writeKey = (key) => sessionStorage.setItem(NAME, key);
export const forgetKey = () => sessionStorage.removeItem(NAME);
