import{WebPlatformAccelerator as Tt,LLMError as $t}from"./index.js";var R=globalThis,O=R.ShadowRoot&&(R.ShadyCSS===void 0||R.ShadyCSS.nativeShadow)&&"adoptedStyleSheets"in Document.prototype&&"replace"in CSSStyleSheet.prototype,D=Symbol(),X=new WeakMap,x=class{constructor(t,e,s){if(this._$cssResult$=!0,s!==D)throw Error("CSSResult is not constructable. Use `unsafeCSS` or `css` instead.");this.cssText=t,this.t=e}get styleSheet(){let t=this.o,e=this.t;if(O&&t===void 0){let s=e!==void 0&&e.length===1;s&&(t=X.get(e)),t===void 0&&((this.o=t=new CSSStyleSheet).replaceSync(this.cssText),s&&X.set(e,t))}return t}toString(){return this.cssText}},Y=r=>new x(typeof r=="string"?r:r+"",void 0,D),j=(r,...t)=>{let e=r.length===1?r[0]:t.reduce((s,i,o)=>s+(n=>{if(n._$cssResult$===!0)return n.cssText;if(typeof n=="number")return n;throw Error("Value passed to 'css' function must be a 'css' function result: "+n+". Use 'unsafeCSS' to pass non-literal values, but take care to ensure page security.")})(i)+r[o+1],r[0]);return new x(e,r,D)},tt=(r,t)=>{if(O)r.adoptedStyleSheets=t.map(e=>e instanceof CSSStyleSheet?e:e.styleSheet);else for(let e of t){let s=document.createElement("style"),i=R.litNonce;i!==void 0&&s.setAttribute("nonce",i),s.textContent=e.cssText,r.appendChild(s)}},z=O?r=>r:r=>r instanceof CSSStyleSheet?(t=>{let e="";for(let s of t.cssRules)e+=s.cssText;return Y(e)})(r):r;var{is:vt,defineProperty:yt,getOwnPropertyDescriptor:_t,getOwnPropertyNames:bt,getOwnPropertySymbols:At,getPrototypeOf:St}=Object,H=globalThis,et=H.trustedTypes,xt=et?et.emptyScript:"",Et=H.reactiveElementPolyfillSupport,E=(r,t)=>r,B={toAttribute(r,t){switch(t){case Boolean:r=r?xt:null;break;case Object:case Array:r=r==null?r:JSON.stringify(r)}return r},fromAttribute(r,t){let e=r;switch(t){case Boolean:e=r!==null;break;case Number:e=r===null?null:Number(r);break;case Object:case Array:try{e=JSON.parse(r)}catch{e=null}}return e}},it=(r,t)=>!vt(r,t),st={attribute:!0,type:String,converter:B,reflect:!1,useDefault:!1,hasChanged:it};Symbol.metadata??=Symbol("metadata"),H.litPropertyMetadata??=new WeakMap;var m=class extends HTMLElement{static addInitializer(t){this._$Ei(),(this.l??=[]).push(t)}static get observedAttributes(){return this.finalize(),this._$Eh&&[...this._$Eh.keys()]}static createProperty(t,e=st){if(e.state&&(e.attribute=!1),this._$Ei(),this.prototype.hasOwnProperty(t)&&((e=Object.create(e)).wrapped=!0),this.elementProperties.set(t,e),!e.noAccessor){let s=Symbol(),i=this.getPropertyDescriptor(t,s,e);i!==void 0&&yt(this.prototype,t,i)}}static getPropertyDescriptor(t,e,s){let{get:i,set:o}=_t(this.prototype,t)??{get(){return this[e]},set(n){this[e]=n}};return{get:i,set(n){let h=i?.call(this);o?.call(this,n),this.requestUpdate(t,h,s)},configurable:!0,enumerable:!0}}static getPropertyOptions(t){return this.elementProperties.get(t)??st}static _$Ei(){if(this.hasOwnProperty(E("elementProperties")))return;let t=St(this);t.finalize(),t.l!==void 0&&(this.l=[...t.l]),this.elementProperties=new Map(t.elementProperties)}static finalize(){if(this.hasOwnProperty(E("finalized")))return;if(this.finalized=!0,this._$Ei(),this.hasOwnProperty(E("properties"))){let e=this.properties,s=[...bt(e),...At(e)];for(let i of s)this.createProperty(i,e[i])}let t=this[Symbol.metadata];if(t!==null){let e=litPropertyMetadata.get(t);if(e!==void 0)for(let[s,i]of e)this.elementProperties.set(s,i)}this._$Eh=new Map;for(let[e,s]of this.elementProperties){let i=this._$Eu(e,s);i!==void 0&&this._$Eh.set(i,e)}this.elementStyles=this.finalizeStyles(this.styles)}static finalizeStyles(t){let e=[];if(Array.isArray(t)){let s=new Set(t.flat(1/0).reverse());for(let i of s)e.unshift(z(i))}else t!==void 0&&e.push(z(t));return e}static _$Eu(t,e){let s=e.attribute;return s===!1?void 0:typeof s=="string"?s:typeof t=="string"?t.toLowerCase():void 0}constructor(){super(),this._$Ep=void 0,this.isUpdatePending=!1,this.hasUpdated=!1,this._$Em=null,this._$Ev()}_$Ev(){this._$ES=new Promise(t=>this.enableUpdating=t),this._$AL=new Map,this._$E_(),this.requestUpdate(),this.constructor.l?.forEach(t=>t(this))}addController(t){(this._$EO??=new Set).add(t),this.renderRoot!==void 0&&this.isConnected&&t.hostConnected?.()}removeController(t){this._$EO?.delete(t)}_$E_(){let t=new Map,e=this.constructor.elementProperties;for(let s of e.keys())this.hasOwnProperty(s)&&(t.set(s,this[s]),delete this[s]);t.size>0&&(this._$Ep=t)}createRenderRoot(){let t=this.shadowRoot??this.attachShadow(this.constructor.shadowRootOptions);return tt(t,this.constructor.elementStyles),t}connectedCallback(){this.renderRoot??=this.createRenderRoot(),this.enableUpdating(!0),this._$EO?.forEach(t=>t.hostConnected?.())}enableUpdating(t){}disconnectedCallback(){this._$EO?.forEach(t=>t.hostDisconnected?.())}attributeChangedCallback(t,e,s){this._$AK(t,s)}_$ET(t,e){let s=this.constructor.elementProperties.get(t),i=this.constructor._$Eu(t,s);if(i!==void 0&&s.reflect===!0){let o=(s.converter?.toAttribute!==void 0?s.converter:B).toAttribute(e,s.type);this._$Em=t,o==null?this.removeAttribute(i):this.setAttribute(i,o),this._$Em=null}}_$AK(t,e){let s=this.constructor,i=s._$Eh.get(t);if(i!==void 0&&this._$Em!==i){let o=s.getPropertyOptions(i),n=typeof o.converter=="function"?{fromAttribute:o.converter}:o.converter?.fromAttribute!==void 0?o.converter:B;this._$Em=i;let h=n.fromAttribute(e,o.type);this[i]=h??this._$Ej?.get(i)??h,this._$Em=null}}requestUpdate(t,e,s,i=!1,o){if(t!==void 0){let n=this.constructor;if(i===!1&&(o=this[t]),s??=n.getPropertyOptions(t),!((s.hasChanged??it)(o,e)||s.useDefault&&s.reflect&&o===this._$Ej?.get(t)&&!this.hasAttribute(n._$Eu(t,s))))return;this.C(t,e,s)}this.isUpdatePending===!1&&(this._$ES=this._$EP())}C(t,e,{useDefault:s,reflect:i,wrapped:o},n){s&&!(this._$Ej??=new Map).has(t)&&(this._$Ej.set(t,n??e??this[t]),o!==!0||n!==void 0)||(this._$AL.has(t)||(this.hasUpdated||s||(e=void 0),this._$AL.set(t,e)),i===!0&&this._$Em!==t&&(this._$Eq??=new Set).add(t))}async _$EP(){this.isUpdatePending=!0;try{await this._$ES}catch(e){Promise.reject(e)}let t=this.scheduleUpdate();return t!=null&&await t,!this.isUpdatePending}scheduleUpdate(){return this.performUpdate()}performUpdate(){if(!this.isUpdatePending)return;if(!this.hasUpdated){if(this.renderRoot??=this.createRenderRoot(),this._$Ep){for(let[i,o]of this._$Ep)this[i]=o;this._$Ep=void 0}let s=this.constructor.elementProperties;if(s.size>0)for(let[i,o]of s){let{wrapped:n}=o,h=this[i];n!==!0||this._$AL.has(i)||h===void 0||this.C(i,void 0,o,h)}}let t=!1,e=this._$AL;try{t=this.shouldUpdate(e),t?(this.willUpdate(e),this._$EO?.forEach(s=>s.hostUpdate?.()),this.update(e)):this._$EM()}catch(s){throw t=!1,this._$EM(),s}t&&this._$AE(e)}willUpdate(t){}_$AE(t){this._$EO?.forEach(e=>e.hostUpdated?.()),this.hasUpdated||(this.hasUpdated=!0,this.firstUpdated(t)),this.updated(t)}_$EM(){this._$AL=new Map,this.isUpdatePending=!1}get updateComplete(){return this.getUpdateComplete()}getUpdateComplete(){return this._$ES}shouldUpdate(t){return!0}update(t){this._$Eq&&=this._$Eq.forEach(e=>this._$ET(e,this[e])),this._$EM()}updated(t){}firstUpdated(t){}};m.elementStyles=[],m.shadowRootOptions={mode:"open"},m[E("elementProperties")]=new Map,m[E("finalized")]=new Map,Et?.({ReactiveElement:m}),(H.reactiveElementVersions??=[]).push("2.1.2");var G=globalThis,rt=r=>r,N=G.trustedTypes,ot=N?N.createPolicy("lit-html",{createHTML:r=>r}):void 0,ct="$lit$",f=`lit$${Math.random().toFixed(9).slice(2)}$`,pt="?"+f,wt=`<${pt}>`,_=document,k=()=>_.createComment(""),P=r=>r===null||typeof r!="object"&&typeof r!="function",J=Array.isArray,kt=r=>J(r)||typeof r?.[Symbol.iterator]=="function",I=`[ 	
\f\r]`,w=/<(?:(!--|\/[^a-zA-Z])|(\/?[a-zA-Z][^>\s]*)|(\/?$))/g,nt=/-->/g,at=/>/g,v=RegExp(`>|${I}(?:([^\\s"'>=/]+)(${I}*=${I}*(?:[^ 	
\f\r"'\`<>=]|("|')|))|$)`,"g"),lt=/'/g,ht=/"/g,ut=/^(?:script|style|textarea|title)$/i,Z=r=>(t,...e)=>({_$litType$:r,strings:t,values:e}),T=Z(1),Ht=Z(2),Nt=Z(3),b=Symbol.for("lit-noChange"),c=Symbol.for("lit-nothing"),dt=new WeakMap,y=_.createTreeWalker(_,129);function mt(r,t){if(!J(r)||!r.hasOwnProperty("raw"))throw Error("invalid template strings array");return ot!==void 0?ot.createHTML(t):t}var Pt=(r,t)=>{let e=r.length-1,s=[],i,o=t===2?"<svg>":t===3?"<math>":"",n=w;for(let h=0;h<e;h++){let a=r[h],d,p,l=-1,u=0;for(;u<a.length&&(n.lastIndex=u,p=n.exec(a),p!==null);)u=n.lastIndex,n===w?p[1]==="!--"?n=nt:p[1]!==void 0?n=at:p[2]!==void 0?(ut.test(p[2])&&(i=RegExp("</"+p[2],"g")),n=v):p[3]!==void 0&&(n=v):n===v?p[0]===">"?(n=i??w,l=-1):p[1]===void 0?l=-2:(l=n.lastIndex-p[2].length,d=p[1],n=p[3]===void 0?v:p[3]==='"'?ht:lt):n===ht||n===lt?n=v:n===nt||n===at?n=w:(n=v,i=void 0);let g=n===v&&r[h+1].startsWith("/>")?" ":"";o+=n===w?a+wt:l>=0?(s.push(d),a.slice(0,l)+ct+a.slice(l)+f+g):a+f+(l===-2?h:g)}return[mt(r,o+(r[e]||"<?>")+(t===2?"</svg>":t===3?"</math>":"")),s]},C=class r{constructor({strings:t,_$litType$:e},s){let i;this.parts=[];let o=0,n=0,h=t.length-1,a=this.parts,[d,p]=Pt(t,e);if(this.el=r.createElement(d,s),y.currentNode=this.el.content,e===2||e===3){let l=this.el.content.firstChild;l.replaceWith(...l.childNodes)}for(;(i=y.nextNode())!==null&&a.length<h;){if(i.nodeType===1){if(i.hasAttributes())for(let l of i.getAttributeNames())if(l.endsWith(ct)){let u=p[n++],g=i.getAttribute(l).split(f),U=/([.?@])?(.*)/.exec(u);a.push({type:1,index:o,name:U[2],strings:g,ctor:U[1]==="."?V:U[1]==="?"?q:U[1]==="@"?W:S}),i.removeAttribute(l)}else l.startsWith(f)&&(a.push({type:6,index:o}),i.removeAttribute(l));if(ut.test(i.tagName)){let l=i.textContent.split(f),u=l.length-1;if(u>0){i.textContent=N?N.emptyScript:"";for(let g=0;g<u;g++)i.append(l[g],k()),y.nextNode(),a.push({type:2,index:++o});i.append(l[u],k())}}}else if(i.nodeType===8)if(i.data===pt)a.push({type:2,index:o});else{let l=-1;for(;(l=i.data.indexOf(f,l+1))!==-1;)a.push({type:7,index:o}),l+=f.length-1}o++}}static createElement(t,e){let s=_.createElement("template");return s.innerHTML=t,s}};function A(r,t,e=r,s){if(t===b)return t;let i=s!==void 0?e._$Co?.[s]:e._$Cl,o=P(t)?void 0:t._$litDirective$;return i?.constructor!==o&&(i?._$AO?.(!1),o===void 0?i=void 0:(i=new o(r),i._$AT(r,e,s)),s!==void 0?(e._$Co??=[])[s]=i:e._$Cl=i),i!==void 0&&(t=A(r,i._$AS(r,t.values),i,s)),t}var K=class{constructor(t,e){this._$AV=[],this._$AN=void 0,this._$AD=t,this._$AM=e}get parentNode(){return this._$AM.parentNode}get _$AU(){return this._$AM._$AU}u(t){let{el:{content:e},parts:s}=this._$AD,i=(t?.creationScope??_).importNode(e,!0);y.currentNode=i;let o=y.nextNode(),n=0,h=0,a=s[0];for(;a!==void 0;){if(n===a.index){let d;a.type===2?d=new M(o,o.nextSibling,this,t):a.type===1?d=new a.ctor(o,a.name,a.strings,this,t):a.type===6&&(d=new F(o,this,t)),this._$AV.push(d),a=s[++h]}n!==a?.index&&(o=y.nextNode(),n++)}return y.currentNode=_,i}p(t){let e=0;for(let s of this._$AV)s!==void 0&&(s.strings!==void 0?(s._$AI(t,s,e),e+=s.strings.length-2):s._$AI(t[e])),e++}},M=class r{get _$AU(){return this._$AM?._$AU??this._$Cv}constructor(t,e,s,i){this.type=2,this._$AH=c,this._$AN=void 0,this._$AA=t,this._$AB=e,this._$AM=s,this.options=i,this._$Cv=i?.isConnected??!0}get parentNode(){let t=this._$AA.parentNode,e=this._$AM;return e!==void 0&&t?.nodeType===11&&(t=e.parentNode),t}get startNode(){return this._$AA}get endNode(){return this._$AB}_$AI(t,e=this){t=A(this,t,e),P(t)?t===c||t==null||t===""?(this._$AH!==c&&this._$AR(),this._$AH=c):t!==this._$AH&&t!==b&&this._(t):t._$litType$!==void 0?this.$(t):t.nodeType!==void 0?this.T(t):kt(t)?this.k(t):this._(t)}O(t){return this._$AA.parentNode.insertBefore(t,this._$AB)}T(t){this._$AH!==t&&(this._$AR(),this._$AH=this.O(t))}_(t){this._$AH!==c&&P(this._$AH)?this._$AA.nextSibling.data=t:this.T(_.createTextNode(t)),this._$AH=t}$(t){let{values:e,_$litType$:s}=t,i=typeof s=="number"?this._$AC(t):(s.el===void 0&&(s.el=C.createElement(mt(s.h,s.h[0]),this.options)),s);if(this._$AH?._$AD===i)this._$AH.p(e);else{let o=new K(i,this),n=o.u(this.options);o.p(e),this.T(n),this._$AH=o}}_$AC(t){let e=dt.get(t.strings);return e===void 0&&dt.set(t.strings,e=new C(t)),e}k(t){J(this._$AH)||(this._$AH=[],this._$AR());let e=this._$AH,s,i=0;for(let o of t)i===e.length?e.push(s=new r(this.O(k()),this.O(k()),this,this.options)):s=e[i],s._$AI(o),i++;i<e.length&&(this._$AR(s&&s._$AB.nextSibling,i),e.length=i)}_$AR(t=this._$AA.nextSibling,e){for(this._$AP?.(!1,!0,e);t!==this._$AB;){let s=rt(t).nextSibling;rt(t).remove(),t=s}}setConnected(t){this._$AM===void 0&&(this._$Cv=t,this._$AP?.(t))}},S=class{get tagName(){return this.element.tagName}get _$AU(){return this._$AM._$AU}constructor(t,e,s,i,o){this.type=1,this._$AH=c,this._$AN=void 0,this.element=t,this.name=e,this._$AM=i,this.options=o,s.length>2||s[0]!==""||s[1]!==""?(this._$AH=Array(s.length-1).fill(new String),this.strings=s):this._$AH=c}_$AI(t,e=this,s,i){let o=this.strings,n=!1;if(o===void 0)t=A(this,t,e,0),n=!P(t)||t!==this._$AH&&t!==b,n&&(this._$AH=t);else{let h=t,a,d;for(t=o[0],a=0;a<o.length-1;a++)d=A(this,h[s+a],e,a),d===b&&(d=this._$AH[a]),n||=!P(d)||d!==this._$AH[a],d===c?t=c:t!==c&&(t+=(d??"")+o[a+1]),this._$AH[a]=d}n&&!i&&this.j(t)}j(t){t===c?this.element.removeAttribute(this.name):this.element.setAttribute(this.name,t??"")}},V=class extends S{constructor(){super(...arguments),this.type=3}j(t){this.element[this.name]=t===c?void 0:t}},q=class extends S{constructor(){super(...arguments),this.type=4}j(t){this.element.toggleAttribute(this.name,!!t&&t!==c)}},W=class extends S{constructor(t,e,s,i,o){super(t,e,s,i,o),this.type=5}_$AI(t,e=this){if((t=A(this,t,e,0)??c)===b)return;let s=this._$AH,i=t===c&&s!==c||t.capture!==s.capture||t.once!==s.once||t.passive!==s.passive,o=t!==c&&(s===c||i);i&&this.element.removeEventListener(this.name,this,s),o&&this.element.addEventListener(this.name,this,t),this._$AH=t}handleEvent(t){typeof this._$AH=="function"?this._$AH.call(this.options?.host??this.element,t):this._$AH.handleEvent(t)}},F=class{constructor(t,e,s){this.element=t,this.type=6,this._$AN=void 0,this._$AM=e,this.options=s}get _$AU(){return this._$AM._$AU}_$AI(t){A(this,t)}};var Ct=G.litHtmlPolyfillSupport;Ct?.(C,M),(G.litHtmlVersions??=[]).push("3.3.3");var gt=(r,t,e)=>{let s=e?.renderBefore??t,i=s._$litPart$;if(i===void 0){let o=e?.renderBefore??null;s._$litPart$=i=new M(t.insertBefore(k(),o),o,void 0,e??{})}return i._$AI(r),i};var Q=globalThis,$=class extends m{constructor(){super(...arguments),this.renderOptions={host:this},this._$Do=void 0}createRenderRoot(){let t=super.createRenderRoot();return this.renderOptions.renderBefore??=t.firstChild,t}update(t){let e=this.render();this.hasUpdated||(this.renderOptions.isConnected=this.isConnected),super.update(t),this._$Do=gt(e,this.renderRoot,this.renderOptions)}connectedCallback(){super.connectedCallback(),this._$Do?.setConnected(!0)}disconnectedCallback(){super.disconnectedCallback(),this._$Do?.setConnected(!1)}render(){return b}};$._$litElement$=!0,$.finalized=!0,Q.litElementHydrateSupport?.({LitElement:$});var Mt=Q.litElementPolyfillSupport;Mt?.({LitElement:$});(Q.litElementVersions??=[]).push("4.2.2");var ft=j`
  :host {
    display: block;
    color-scheme: light dark;
    font-family: var(--sllm-font, system-ui, -apple-system, sans-serif);
    --accent: var(--sllm-accent, light-dark(#23683a, #6fc58a));
    --on-accent: var(--sllm-on-accent, light-dark(#fff, #10241a));
    --line: var(--sllm-line, light-dark(#c9c9c9, #4a4a4a));
    --surface: var(--sllm-surface, light-dark(#f7f7f7, #1e1e1e));
    --ink: var(--sllm-ink, light-dark(#1c1c1c, #ececec));
    --problem: var(--sllm-problem, light-dark(#b3261e, #ff8a80));
    color: var(--ink);
  }
  :host([hidden]) {
    display: none;
  }
  :host([theme='light']) {
    color-scheme: light;
  }
  :host([theme='dark']) {
    color-scheme: dark;
  }
  .container {
    max-width: var(--sllm-width, 800px);
    margin: 0 auto;
  }
  textarea {
    box-sizing: border-box;
    width: 100%;
    height: 120px;
    padding: 10px;
    margin-bottom: 10px;
    border: 1px solid var(--line);
    border-radius: 4px;
    background: transparent;
    color: inherit;
    font: inherit;
  }
  .buttons {
    display: flex;
    gap: 10px;
    margin-bottom: 20px;
  }
  button {
    padding: 8px 16px;
    border: none;
    border-radius: 4px;
    background: var(--accent);
    color: var(--on-accent);
    font: inherit;
    cursor: pointer;
  }
  button:disabled {
    background: var(--line);
    color: var(--ink);
    opacity: 0.6;
    cursor: not-allowed;
  }
  :is(button, textarea):focus-visible {
    outline: 2px solid var(--accent);
    outline-offset: 2px;
  }
  .output {
    min-height: 200px;
    max-height: 400px;
    padding: 15px;
    margin-bottom: 15px;
    overflow-y: auto;
    border: 1px solid var(--line);
    border-radius: 4px;
    background: var(--surface);
    white-space: pre-wrap;
    overflow-wrap: break-word;
  }
  .message-user {
    color: color-mix(in srgb, var(--ink) 70%, transparent);
    margin-bottom: 8px;
  }
  .error {
    margin: 10px 0;
    color: var(--problem);
  }
  .status,
  .stats {
    font-size: 0.9em;
    color: color-mix(in srgb, var(--ink) 80%, transparent);
  }
`;var L=class extends ${static styles=ft;static formAssociated=!0;static properties={modelPath:{type:String,attribute:"model-path",reflect:!0},modelType:{type:String,attribute:"model-type",reflect:!0},maxTokens:{type:Number,attribute:"max-tokens",reflect:!0},temperature:{type:Number,reflect:!0},url:{type:String,reflect:!0},endpoint:{type:String,reflect:!0},system:{type:String,reflect:!0},placeholder:{type:String,reflect:!0},theme:{type:String,reflect:!0},readonly:{type:Boolean,reflect:!0},config:{attribute:!1},status:{state:!0},output:{state:!0},problem:{state:!0},asked:{state:!0},stats:{state:!0}};apiKeyProvider;messages=[];internals=this.attachInternals();accelerator;answer;loads=0;model="";ending="disconnected";constructor(){super(),this.modelPath=this.url=this.endpoint=this.system=this.theme=null,this.modelType="text",this.maxTokens=500,this.temperature=.7,this.placeholder="Enter your prompt here...",this.readonly=!1,this.status="waiting",this.output=this.problem=this.asked=""}get value(){return this.field?.value??""}set value(t){this.field&&(this.field.value=t),this.internals.setFormValue(t)}get field(){return this.renderRoot?.querySelector("textarea")??null}disconnectedCallback(){super.disconnectedCallback(),this.end("removed")}connectedCallback(){super.connectedCallback(),this.hasUpdated&&this.modelPath&&!this.answer&&this.load()}willUpdate(t){if(["modelPath","modelType","url","endpoint","config"].some(s=>t.has(s))&&this.modelPath&&this.load(),t.has("status"))for(let s of["loading","ready","generating","error"])s===this.status?this.internals.states.add(s):this.internals.states.delete(s)}async load(){let t=++this.loads;this.end("removed"),this.status="loading",this.problem="";try{this.accelerator=new Tt({modelPath:this.modelPath,modelType:this.modelType,url:this.url??this.endpoint??void 0,apiKey:this.apiKeyProvider,config:this.config,autoDetect:!0}),this.answer=this.accelerator.createEndpoint();let e=await this.answer.ready();if(t!==this.loads)return;this.model=e.model,this.status="ready";let{precision:s,contextLength:i,route:o}=e;this.tell("model-ready",{model:e.model,capabilities:{precision:s,contextLength:i},route:o})}catch(e){t===this.loads&&this.fail("Failed to load model: ",e)}}end(t){this.status==="generating"&&(this.ending=t),this.accelerator?.close(),this.accelerator=this.answer=void 0,this.status!=="error"&&(this.status="waiting")}async generate(t=this.value){let e=t.trim();if(!this.answer||this.status==="loading"||this.status==="generating"||!e)return;let s=[...this.messages,{role:"user",content:e}];this.messages=s,this.asked=e,this.output=this.problem="",this.stats=void 0,this.status="generating",this.ending="disconnected";let{system:i,maxTokens:o,temperature:n}=this;try{let h=this.answer.chunks({messages:s,system:i??void 0,maxTokens:o,temperature:n}),a=performance.now(),d=0,p=0;for await(let l of h){d||=performance.now(),this.output+=l.text,p+=l.tokens;let u=(performance.now()-d)/1e3;this.stats={tokens:p,tokensPerSecond:u>0?(p-1)/u:0,firstTokenMs:d-a},l.finishReason==="stopped"?this.finish("generation-stopped",{text:this.output,reason:this.ending}):this.tell("token",{token:l.text,isLast:l.last===!0,seq:l.seq,tokensPerSecond:this.stats.tokensPerSecond}),l.last&&this.finish("generation-complete",{text:this.output,usage:l.usage,timings:l.timings,finishReason:l.finishReason})}}catch(h){this.fail("Generation error: ",h)}}finish(t,e){this.messages=[...this.messages,{role:"assistant",content:this.output}],this.status==="generating"&&(this.status="ready"),this.tell(t,e)}async stop(){this.status==="generating"&&(this.ending="user",await this.accelerator?.stopGeneration())}clear(){this.messages=[],this.output=this.problem=this.asked="",this.stats=void 0}fail(t,e){let s=e instanceof $t?e:new $t(String(e),{code:"internal_error",cause:e});this.problem=t+s.message,this.status=t.startsWith("Failed")?"error":"ready",this.tell("error",{message:this.problem,error:s})}tell(t,e){this.dispatchEvent(new CustomEvent(t,{detail:e,bubbles:!0,composed:!0}))}updated(){let t=this.renderRoot.querySelector(".output");t&&this.status==="generating"&&(t.scrollTop=t.scrollHeight)}submitted(t){t.preventDefault(),this.generate()}empty(){return T`<slot name="empty">${{waiting:"Output will appear here",loading:"Loading model...",ready:"Model loaded. Ready to generate.",generating:"",error:"Output will appear here"}[this.status]}</slot>`}render(){let t=this.status==="generating",e=this.status==="ready";return T`
      <div class="container">
        <slot name="header"></slot>
        ${this.readonly?c:T`<form part="composer" @submit=${this.submitted}>
              <textarea part="input" aria-label="Prompt" placeholder=${this.placeholder} @input=${()=>this.internals.setFormValue(this.value)}></textarea>
              <div class="buttons">
                <button part="send" type="submit" ?disabled=${!e}>Generate</button>
                <button part="stop" type="button" class="stop-btn" ?disabled=${!t} @click=${this.stop}>Stop</button>
              </div>
            </form>`}
        <div class="message-user" part="message message-user" ?hidden=${!this.asked}>${this.asked}</div>
        <div class="output" part="transcript" role="log" tabindex="0" aria-label="Answer" aria-busy=${t}>${this.output?T`<span part="message message-assistant">${this.output}</span>`:this.empty()}</div>
        <div class="error" role="alert" ?hidden=${!this.problem}>${this.problem}</div>
        <div class="status" part="status" role="status" ?hidden=${!this.model}>Model loaded: ${(this.modelPath??"").split("/").pop()}</div>
        <div class="stats" part="stats" ?hidden=${!this.stats}>${this.stats?`${this.stats.tokens} tokens, ${this.stats.tokensPerSecond.toFixed(0)} tokens/s, first after ${this.stats.firstTokenMs.toFixed(0)} ms`:c}</div>
        <slot name="footer"></slot>
      </div>
    `}};customElements.get("streaming-llm")||customElements.define("streaming-llm",L);export{L as StreamingLLM};
/*! Bundled license information:

@lit/reactive-element/css-tag.js:
  (**
   * @license
   * Copyright 2019 Google LLC
   * SPDX-License-Identifier: BSD-3-Clause
   *)

@lit/reactive-element/reactive-element.js:
lit-html/lit-html.js:
lit-element/lit-element.js:
  (**
   * @license
   * Copyright 2017 Google LLC
   * SPDX-License-Identifier: BSD-3-Clause
   *)

lit-html/is-server.js:
  (**
   * @license
   * Copyright 2022 Google LLC
   * SPDX-License-Identifier: BSD-3-Clause
   *)
*/
