<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>
<qgis styleCategories="Symbology">
  <pipe>
    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1">
      <colorPalette>
        {% for colour in legend.colours %}
        <paletteEntry value="{{ loop.index0 }}" color="{{ '#%02x%02x%02x' % colour }}" alpha="255" label="{{ legend.classes[loop.index0] }}"/>
        {% endfor %}
      </colorPalette>
    </rasterrenderer>
  </pipe>
</qgis>
