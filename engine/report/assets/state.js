"use strict";
// What the page shows is stored in the address after "#", so that a copy of the address reopens the same view.
const state = new URLSearchParams(location.hash.slice(1));
const get = (name, otherwise = "") => state.get(name) ?? otherwise;

// Change values of the state. An empty value is removed.
function set(changes) {
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === undefined || value === "") state.delete(name);
    else state.set(name, value);
  }
  history.replaceState(null, "", `#${state}`);
}
