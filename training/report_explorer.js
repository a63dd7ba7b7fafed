// The floor explorer: shows what Python computed for the floor that the slider stands at.
(function () {
  "use strict";
  var source = document.getElementById("floor-data");
  var slider = document.getElementById("floor-slider");
  var explorer = document.getElementById("floor-explorer");
  if (source && slider && explorer) {
    var data = JSON.parse(source.textContent);
    var marker = document.getElementById("floor-marker");
    var show = function () {
      var index = Number(slider.value);
      var point = data.points[index];
      Object.keys(point).forEach(function (key) {
        var place = document.getElementById("floor-" + key);
        if (place) {
          place.textContent = point[key];
        }
      });
      slider.setAttribute("aria-valuetext", point.words);
      if (marker) {
        marker.setAttribute("x", data.marker[index]);
      }
    };
    // #floor=12 opens the page at a floor, so that a place can be sent to someone.
    var follow = function () {
      var found = /^#floor=(\d+)$/.exec(window.location.hash);
      if (found && Number(found[1]) < data.points.length) {
        slider.value = found[1];
        show();
      }
    };
    explorer.hidden = false;
    slider.addEventListener("input", show);
    window.addEventListener("hashchange", follow);
    show();
    follow();
  }
  // On paper nothing can be unfolded.
  var opened = [];
  window.addEventListener("beforeprint", function () {
    opened = Array.from(document.querySelectorAll("details:not([open])"));
    opened.forEach(function (part) {
      part.open = true;
    });
  });
  window.addEventListener("afterprint", function () {
    opened.forEach(function (part) {
      part.open = false;
    });
  });
})();
