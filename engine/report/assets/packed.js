"use strict";
// Data as they come with the page or from the server: gzipped, columns one after another.
const packed = (() => {
  const KINDS = { int32: Int32Array, float32: Float32Array };
  const unzip = (content) => new Response(new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();

  return {
    unzip,
    // Data that the page itself holds; null if the page does not hold them.
    async embedded(name) {
      const place = document.getElementById(name);
      if (!place) return null;
      const text = atob(place.textContent), bytes = new Uint8Array(text.length);
      for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
      return unzip(bytes);
    },
    // Unpack one piece of columns, whose first feature is `first`: a line of JSON with the name and the kind of each column,
    // then the columns.
    unpack(content, columns, features, first = 0) {
      const bytes = new Uint8Array(content), end = bytes.indexOf(10) + 1;
      const kinds = Object.entries(JSON.parse(new TextDecoder().decode(bytes.subarray(0, end))));
      const rows = (content.byteLength - end) / 4 / kinds.length;
      kinds.forEach(([name, kind], number) => {
        const Kind = KINDS[kind];
        columns[name] ??= new Kind(features);
        columns[name].set(new Kind(content, end + 4 * rows * number, rows), first);
      });
      return columns;
    },
  };
})();
