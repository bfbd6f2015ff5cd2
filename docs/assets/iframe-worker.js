// Run web workers of pages that are opened from disk: browsers start none there, so a hidden frame runs the script.
"use strict";

if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.scope = new Promise((resolve, reject) => {
        const start = () => {
          document.body.append(this.frame);
          const scope = this.frame.contentWindow;
          scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
          const script = scope.document.createElement("script");
          script.src = new URL(url, document.baseURI);
          script.onload = () => resolve(scope);
          script.onerror = () => reject(new Error(`${script.src} cannot be loaded`));
          scope.document.body.append(script);
        };
        if (document.body) start();
        else addEventListener("DOMContentLoaded", start);
      });
    }

    postMessage(data) {
      this.scope.then((scope) => scope.dispatchEvent(new scope.MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
