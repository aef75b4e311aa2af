/* A page opened from disk may not start a worker. Its script runs in a hidden frame instead, so that
   the search works without a server. */
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.appendChild(frame)
      this.inside = frame.contentWindow
      this.ready = new Promise(started => { frame.started = started })
      frame.reply = data => this.dispatchEvent(new MessageEvent("message", { data }))
      const script = (attributes, code) => `<script${attributes}>${code}</` + "script>"
      const page = this.inside.document
      page.open()
      page.write(
        script("", "postMessage = data => frameElement.reply(data)"),
        script(` src="${url}"`, ""),
        script("", "frameElement.started()"),
      )
      page.close()
    }
    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {}
  }
}
